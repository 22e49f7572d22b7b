// A form for a job, or for a set of models: what it names is sent first, and then the job itself, once.
import { call } from "./api.js";
import { element, sentence } from "./dom.js";
import { send } from "./sending.js";

const BUNDLE = ["manifest.json", "graph.json", "weights.safetensors"];
const SPLITS = ["train", "validation", "test"];

const form = document.getElementById("submit");
const at = (id) => document.getElementById(id);
const key = crypto.getRandomValues(new Uint32Array(4)).join("-");

const kinds = {};
// Of data, by how a job names them: npz, parquet or folder.
let here = [];
// What the lists of a model offer: [their names, value, text].

const models = () => [...at("models").children];
const isSet = () => models().length > 1;

async function fetchData() {
  const [inputs, sources] = await Promise.all([call("/inputs"), call("/sources")]);
  const dated = ({ sha256, created_s: time }) => `${sha256.slice(0, 12)}…, of ${new Date(1000 * time).toLocaleDateString()}`;
  here = [
    ...inputs.map((input) => [input.kind === "bundle" ? ["bundle"] : SPLITS, `sha256:${input.sha256}`, input.kind === "bundle" ? dated(input) : `${input.kind} ${dated(input)}`]),
    ...sources.map(({ name }) => [SPLITS, `source:${name}`, name]),
  ];
  for (const input of inputs) kinds[`sha256:${input.sha256}`] = input.kind;
  for (const { name, kind } of sources) kinds[`source:${name}`] = kind;
}

/** The first time that a service lists its devices it validates them, which takes seconds: nothing waits for it. */
async function fillDevices() {
  const devices = await call("/devices");
  at("device").append(...devices.filter(({ profile, wrong }) => profile && !wrong).map(({ device }) => element("option", {}, device)));
}

function addModel() {
  const { elements } = at("models").appendChild(at("model").content.firstElementChild.cloneNode(true));
  for (const [names, value, text] of here) for (const name of names) elements[name].append(element("option", { value }, text));
  elements.member.value = `model-${models().length}`;
  elements.train.value = "upload";
  if (elements.bundle.options.length > 1) elements.bundle.selectedIndex = 1;
  toggle();
}

/** Show what fits what was chosen. */
function toggle() {
  for (const model of models()) {
    for (const upload of model.querySelectorAll("[data-upload]")) upload.hidden = model.elements[upload.dataset.upload].value !== "upload";
    const bringsItsOwn = model.elements.train.value === "digits";
    for (const split of ["validation", "test"]) {
      model.elements[split].closest("label").hidden = bringsItsOwn;
      if (bringsItsOwn) model.querySelector(`[data-upload=${split}]`).hidden = true;
    }
    // A field that is hidden is not asked for either.
    for (const each of model.querySelectorAll("[data-of-set] input")) each.disabled = !isSet();
  }
  for (const each of form.querySelectorAll("[data-of-set]")) each.hidden = !isSet();
  for (const each of form.querySelectorAll("[data-of-one]")) each.hidden = isSet();
  if (isSet() && form.levels.value === form.levels.defaultValue) form.levels.value = "50%";
}

function told(text, share) {
  at("sending").hidden = false;
  at("sending").querySelector("span").textContent = text;
  at("sending").querySelector("progress").value = share;
}

async function sentBundle({ elements }) {
  if (elements.bundle.value !== "upload") return elements.bundle.value;
  const files = new Map([...elements["bundle-file"].files].map((file) => [file.name, file]));
  const missing = BUNDLE.filter((name) => !files.has(name));
  if (missing.length) throw new Error(`a bundle is three files; choose ${missing.join(" and ")}, too`);
  const digests = {};
  for (const name of BUNDLE) digests[name] = await send(files.get(name), (share) => told(`sending ${name}`, share));
  told("checking the bundle", 1);
  await call(`/bundles/${digests["manifest.json"]}`, { method: "PUT" });
  return `sha256:${digests["manifest.json"]}`;
}

/** How a job names the data of a split; "" where none were chosen. */
async function sentSplit({ elements }, split) {
  if (elements[split].value !== "upload") return elements[split].value;
  const [file] = elements[`${split}-file`].files;
  if (!file) throw new Error(`choose a file of ${split} data, or other data`);
  const digest = await send(file, (share) => told(`sending ${file.name}`, share));
  told(`checking ${file.name}`, 1);
  kinds[`sha256:${digest}`] = (await call(`/data/${digest}`, { method: "PUT" })).kind;
  return `sha256:${digest}`;
}

async function sentData(model) {
  if (model.elements.train.value === "digits") return { source: "digits" };
  const splits = {};
  for (const split of SPLITS) splits[split] = await sentSplit(model, split);
  const named = Object.entries(splits).filter(([, reference]) => reference);
  const source = kinds[splits.train];
  if (!source) throw new Error(`${splits.train} cannot be read any more; choose other training data`);
  const other = named.find(([, reference]) => kinds[reference] !== source);
  if (other) throw new Error(`training data are ${source} and ${other[0]} data ${kinds[other[1]]}; allowed: one kind for all splits`);
  return { source, ...Object.fromEntries(named) };
}

/** "50%, 75%" or "2.5 ms" as a job file has it. */
function budget(text) {
  const levels = text.split(",").map((level) => level.trim()).filter(Boolean);
  if (!levels.some((level) => /ms$/.test(level))) return { latency: levels };
  return { latency_ms: levels.map((level) => Number(level.replace(/\s*ms$/, ""))) };
}

async function sentModels() {
  const found = [];
  for (const model of models()) {
    const { member, weight, accuracy_drop: drop } = model.elements;
    found.push({
      model: { bundle: await sentBundle(model) }, data: await sentData(model),
      ...(isSet() ? { name: member.value, weight: weight.valueAsNumber, ...(drop.value ? { accuracy_drop: drop.valueAsNumber } : {}) } : {}),
    });
  }
  return isSet() ? { models: found } : found[0];
}

form.addEventListener("change", toggle);
form.addEventListener("click", ({ target }) => {
  if (!("remove" in target.dataset)) return;
  target.closest("fieldset").remove();
  toggle();
  at("another").focus();
});
at("another").addEventListener("click", () => {
  addModel();
  models().at(-1).elements.member.focus();
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  at("refused").hidden = true;
  if (!form.reportValidity()) return;
  const button = form.querySelector("button.main");
  button.disabled = true;
  try {
    const job = {
      name: form.elements.name.value,
      ...(await sentModels()),
      budget: budget(form.levels.value),
      search: { controller: form.controller.value, trials: form.trials.valueAsNumber, workers: form.workers.valueAsNumber },
      finetune: { final_steps: form.steps.valueAsNumber },
      ...(form.device.value ? { devices: [{ name: form.device.value, profile: form.device.value }] } : {}),
    };
    told("submitting", 1);
    const made = await call("/jobs", { method: "POST", body: job, headers: { "Idempotency-Key": key } });
    location.assign(`/jobs/${made.name}`);
  } catch (error) {
    refuse(error);
    at("sending").hidden = true;
    button.disabled = false;
  }
});

function refuse(error) {
  at("refused").textContent = sentence(error);
  at("refused").hidden = false;
}

try {
  await fetchData();
} catch (error) {
  refuse(error);
}
addModel();
fillDevices().catch(refuse);
