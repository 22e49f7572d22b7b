// A form for a job: what it names is sent first, and then the job itself, once.
import { call } from "./api.js";
import { element, sentence } from "./dom.js";
import { send } from "./sending.js";

const BUNDLE = ["manifest.json", "graph.json", "weights.safetensors"];

const form = document.getElementById("submit");
const at = (id) => document.getElementById(id);
const key = crypto.getRandomValues(new Uint32Array(4)).join("-");

const sources = {};
// Value of an option → the source of data that it stands for.

async function fill() {
  const [inputs, named, devices] = await Promise.all([call("/inputs"), call("/sources"), call("/devices")]);
  const dated = ({ sha256, created_s: time }) => `${sha256.slice(0, 12)}…${time ? `, of ${new Date(1000 * time).toLocaleDateString()}` : ""}`;
  for (const input of inputs) {
    if (input.kind === "bundle") at("bundle").append(element("option", { value: `sha256:${input.sha256}` }, dated(input)));
    else for (const id of ["data", "validation", "test"]) at(id).append(element("option", { value: `sha256:${input.sha256}` }, `${input.kind} ${dated(input)}`));
    sources[`sha256:${input.sha256}`] = input.kind;
  }
  for (const { name } of named) {
    for (const id of ["data", "validation", "test"]) at(id).append(element("option", { value: `source:${name}` }, name));
  }
  for (const device of devices.filter(({ profile, wrong }) => profile && !wrong)) at("device").append(element("option", {}, device.device));
  if (at("bundle").options.length > 1) at("bundle").selectedIndex = 1;
  toggle();
}

function toggle() {
  at("bundle-upload").hidden = form.bundle.value !== "";
  at("data-upload").hidden = form.data.value !== "upload";
  for (const each of form.querySelectorAll("[data-files]")) each.hidden = form.data.value === "digits";
}

function told(text, share) {
  at("sending").hidden = false;
  at("sending").querySelector("span").textContent = text;
  at("sending").querySelector("progress").value = share;
}

async function sentBundle() {
  if (form.bundle.value) return form.bundle.value;
  const files = new Map([...at("bundle-files").files].map((file) => [file.name, file]));
  const missing = BUNDLE.filter((name) => !files.has(name));
  if (missing.length) throw new Error(`a bundle is three files; choose ${missing.join(" and ")}, too`);
  const digests = {};
  for (const name of BUNDLE) digests[name] = await send(files.get(name), (share) => told(`sending ${name}`, share));
  told("checking the bundle", 1);
  await call(`/bundles/${digests["manifest.json"]}`, { method: "PUT" });
  return `sha256:${digests["manifest.json"]}`;
}

async function sentData() {
  if (form.data.value === "digits") return { source: "digits" };
  if (form.data.value !== "upload") return described(form.data.value);
  const [file] = at("data-file").files;
  if (!file) throw new Error("choose a file of training data, or data that are here");
  const digest = await send(file, (share) => told(`sending ${file.name}`, share));
  told("checking the data", 1);
  const kept = await call(`/data/${digest}`, { method: "PUT" });
  sources[`sha256:${digest}`] = kept.kind;
  return described(`sha256:${digest}`);
}

function described(train) {
  const others = Object.fromEntries(["validation", "test"].filter((split) => form[split].value).map((split) => [split, form[split].value]));
  return { source: sources[train] ?? "npz", train, ...others };
}

/** "50%, 75%" or "2.5 ms" as a job file has it. */
function budget(text) {
  const levels = text.split(",").map((level) => level.trim()).filter(Boolean);
  if (!levels.some((level) => /ms$/.test(level))) return { latency: levels };
  return { latency_ms: levels.map((level) => Number(level.replace(/\s*ms$/, ""))) };
}

form.addEventListener("change", toggle);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  at("refused").hidden = true;
  if (!form.reportValidity()) return;
  const button = form.querySelector("button.main");
  button.disabled = true;
  try {
    const job = {
      name: form.elements.name.value,
      model: { bundle: await sentBundle() },
      data: await sentData(),
      budget: budget(form.levels.value),
      search: { trials: form.trials.valueAsNumber, workers: form.workers.valueAsNumber },
      finetune: { final_steps: form.steps.valueAsNumber },
      ...(form.device.value ? { devices: [{ name: form.device.value, profile: form.device.value }] } : {}),
    };
    told("submitting", 1);
    const made = await call("/jobs", { method: "POST", body: job, headers: { "Idempotency-Key": key } });
    location.assign(`/jobs/${made.name}`);
  } catch (error) {
    at("refused").textContent = sentence(error);
    at("refused").hidden = false;
    at("sending").hidden = true;
    button.disabled = false;
  }
});

try {
  await fill();
} catch (error) {
  at("refused").textContent = sentence(error);
  at("refused").hidden = false;
}
toggle();
