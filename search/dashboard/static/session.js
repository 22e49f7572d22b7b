// The end of the browser's session.
import { call } from "./api.js";

document.getElementById("logout")?.addEventListener("click", async () => {
  await call("/session", { method: "DELETE" });
  location.assign("/login");
});
