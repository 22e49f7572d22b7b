// A token for a session; then to the page that was wanted.
import { call } from "./api.js";
import { sentence } from "./dom.js";

const form = document.getElementById("login");
const refused = document.getElementById("refused");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  refused.hidden = true;
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    await call("/session", { method: "POST", body: { token: form.token.value.trim() } });
    const next = new URLSearchParams(location.search).get("next") ?? "/";
    const wanted = new URL(next, location.origin);
    location.assign(wanted.origin === location.origin ? wanted.href : "/");
  } catch (error) {
    refused.textContent = sentence(error);
    refused.hidden = false;
    form.token.select();
    button.disabled = false;
  }
});
