// Light, dark, or as the system has it. Runs before the page is drawn, so that nothing flashes.
const THEMES = ["system", "light", "dark"];
const NAMES = { system: "as system", light: "light", dark: "dark" };

function apply(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

let theme = THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system";
apply(theme);

addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const tell = () => { button.lastChild.textContent = NAMES[theme]; };
  tell();
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem("theme", theme);
    apply(theme);
    tell();
    dispatchEvent(new Event("themechange"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
});
