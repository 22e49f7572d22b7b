// Profiles with their age and error, the stairs of one, and the agents that are alive.
import { call } from "./api.js";
import { element, sentence, showState, table } from "./dom.js";
import { percent } from "./numbers.js";
import { HIGH, stairsChart } from "./stairs-chart.js";

const AGENTS_MS = 5000;
const OLD_DAYS = 90;

const at = (id) => document.getElementById(id);
let chart = null;

const ago = (seconds) => (seconds < 60 ? `${Math.round(seconds)} s` : seconds < 3600 ? `${Math.round(seconds / 60)} min` : seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`);
const run = (device) => `${device.runtime}, ${device.precision}, batch ${device.batch}, ${device.threads} thread${device.threads === 1 ? "" : "s"}`;

function drawProfiles(devices) {
  const profiles = devices.filter((device) => device.profile || (device.wrong && device.seen_s_ago === undefined));
  if (!profiles.length) return showState(at("profiles"), "nothing", "No device has a profile yet", "A job measures its device before it searches; `prunefront profile` measures one for many models.");
  at("profiles").replaceChildren(table([
    ["device", (device) => (device.wrong ? device.device : element("button.plain.link", { type: "button", onclick: () => showStairs(device.device) }, device.device))],
    ["board", (device) => device.wrong ?? element("span", {}, device.board, device.this_machine ? element("small", {}, " · this machine") : null, device.shipped ? element("small", {}, " · shipped") : null)],
    ["run as", (device) => (device.wrong ? "" : run(device))],
    ["age", (device) => (device.wrong ? "" : element("span", { class: device.age_days > OLD_DAYS ? "uniform" : null, title: device.created }, ago(86400 * device.age_days))), true],
    ["kernels", (device) => device.kernels ?? "", true],
    ["networks", (device) => device.networks?.length ?? "", true],
    ["mean error, held out", (device) => (device.mean_error === null || device.mean_error === undefined ? "–" : `${percent(device.mean_error, 1)} % of ${device.validated_on}`), true],
  ], profiles));
}

function drawAgents(devices) {
  const agents = devices.filter((device) => device.seen_s_ago !== undefined);
  if (!agents.length) return showState(at("agents"), "nothing", "No agent has asked for work yet", "Start one on a board: prunefront agent");
  at("agents").classList.remove("nothing", "loading");
  at("agents").replaceChildren(table([
    ["device", (agent) => agent.device],
    ["", (agent) => element("span", { class: `state ${agent.alive ? "searching" : "interrupted"}` }, agent.alive ? "alive" : "silent")],
    ["heard of", (agent) => `${ago(agent.seen_s_ago)} ago`, true],
    ["board", (agent) => agent.board],
    ["run as", run],
  ], agents));
}

async function showStairs(name, operator = 0) {
  const section = at("stairs-section");
  section.hidden = false;
  try {
    const found = await call(`/devices/${encodeURIComponent(name)}/stairs?operator=${operator}`);
    at("stairs-title").textContent = `Stairs of ${name}`;
    at("operator").replaceChildren(...found.operators.map((text, i) => element("option", { value: i, selected: i === operator }, text)));
    at("operator").onchange = ({ target }) => showStairs(name, Number(target.value));
    at("stairs").style.setProperty("height", `${HIGH * found.stairs.length}px`);
    chart ??= stairsChart(at("stairs"));
    chart.show(found.stairs);
    section.scrollIntoView({ block: "nearest" });
  } catch (error) {
    at("stairs-title").textContent = sentence(error);
  }
}

async function refresh(isFirst) {
  try {
    const devices = await call("/devices");
    if (isFirst) drawProfiles(devices);
    drawAgents(devices);
    if (isFirst) {
      const shown = devices.find((device) => device.profile && !device.wrong && device.kernels);
      if (shown) showStairs(shown.device);
    }
  } catch (error) {
    if (isFirst) for (const place of [at("profiles"), at("agents")]) showState(place, "broken", sentence(error));
  }
  setTimeout(() => refresh(false), AGENTS_MS);
}

for (const place of [at("profiles"), at("agents")]) showState(place, "loading", "Fetching …");
refresh(true);
