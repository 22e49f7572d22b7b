// A form for a job, or for a set of models: what it names is sent first, and then the job itself, once.
import { call } from "./api.js";
import { element, sentence } from "./dom.js";
import { bytes } from "./numbers.js";
import { send } from "./sending.js";

const BUNDLE = ["manifest.json", "graph.json", "weights.safetensors"];
const SPLITS = ["train", "validation", "test"];
const OWN = "this-cpu";
// What a job calls the service's own CPU.
const DROP = "accuracy_drop";
const FRONT = "50%, 75%";
const LEVEL = "50%";
// What the first budget begins with, and others, or that of several models.

const form = document.getElementById("submit");
const at = (id) => document.getElementById(id);
const refused = at("refused");
let sent = {};
// The job as it was sent last, and the key of that call: sent again unchanged, it is the same job.

const kinds = {};
// Of data, by how a job names them: npz, parquet or folder.
let here = [];
// What the lists of a model offer: [their names, value, text].

/** All that there is of "model", "device" or "budget". */
const rows = (what) => [...at(`${what}s`).children];
const models = () => rows("model");
const isSet = () => models().length > 1;
const field = (row, name) => row.querySelector(`[name=${name}]`);

async function fetchData() {
  const [inputs, sources] = await Promise.all([call("/inputs"), call("/sources")]);
  const seen = ({ sha256, size_bytes: size, created_s: time }) => `${bytes(size)}, ${new Date(1000 * time).toLocaleString()}, ${sha256.slice(0, 8)}…`;
  here = [
    ...inputs.map((input) => [input.kind === "bundle" ? ["bundle"] : SPLITS, `sha256:${input.sha256}`, input.kind === "bundle" ? seen(input) : `${input.kind}, ${seen(input)}`]),
    ...sources.map(({ name }) => [SPLITS, `source:${name}`, name]),
  ];
  for (const input of inputs) kinds[`sha256:${input.sha256}`] = input.kind;
  for (const { name, kind } of sources) kinds[`source:${name}`] = kind;
}

/** The first time that a service lists its devices it validates them, which takes seconds: nothing waits for it. */
async function fillDevices() {
  const devices = await call("/devices");
  const named = devices.filter(({ device, profile, wrong }) => profile && !wrong && device !== OWN);
  for (const row of [at("device").content, ...rows("device")]) field(row, "device").append(...named.map(({ device }) => element("option", {}, device)));
  toggle();
}

function add(what) {
  const row = at(`${what}s`).appendChild(at(what).content.firstElementChild.cloneNode(true));
  ({ model: startModel, device: startDevice, budget: startBudget })[what](row);
  return row;
}

function startModel(model) {
  model.elements.member.value = `model-${models().length}`;
  model.elements.train.value = "upload";
  offer(model);
}

function offer({ elements }) {
  for (const [names, value, text] of here) for (const name of names) elements[name].append(element("option", { value }, text));
}

function startDevice(row) {
  chooseUnused(rows("device").map((each) => field(each, "device")), field(row, "device"));
}

function startBudget(row) {
  chooseUnused(rows("budget").map((each) => field(each, "kind")), field(row, "kind"));
  begin(row);
}

/** Give a budget what it is to begin with. */
function begin(row) {
  const isFirst = rows("budget")[0] === row && !isSet();
  field(row, "levels").value = field(row, "kind").value === DROP ? "1" : isFirst ? FRONT : LEVEL;
}

function chooseUnused(selects, select) {
  const used = selects.filter((other) => other !== select).map(({ value }) => value);
  select.value = [...select.options].find(({ value }) => !used.includes(value)).value;
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
    for (const each of model.querySelectorAll("[data-of-files]")) each.hidden = bringsItsOwn;
    // A field that is hidden is not asked for either.
    for (const each of model.querySelectorAll("[data-of-files] input")) each.disabled = bringsItsOwn;
    for (const each of model.querySelectorAll("[data-of-set] input")) each.disabled = !isSet();
  }
  for (const each of form.querySelectorAll("[data-of-set]")) each.hidden = !isSet();
  for (const each of form.querySelectorAll("[data-of-one]")) each.hidden = isSet();
  toggleRows("device", "device");
  toggleRows("budget", "kind");
  for (const [k, row] of rows("device").entries()) {
    field(row, "device").dataset.key = `devices[${k}]`;
    field(row, "own").hidden = k === 0;
  }
  rows("budget").forEach(toggleBudget);
  at("all-met").hidden = rows("budget").length + rows("device").length === 2;
}

/** One of each is always there, nothing is chosen twice, and several models share a single budget on a single device. */
function toggleRows(what, name) {
  const all = rows(what);
  const selects = all.map((row) => field(row, name));
  for (const select of selects) {
    for (const option of select.options) option.disabled = isSet() ? "notShared" in option.dataset : selects.some((other) => other !== select && other.value === option.value);
  }
  for (const [k, row] of all.entries()) {
    row.hidden = isSet() && k > 0;
    row.querySelector("[data-remove]").hidden = k === 0;
    for (const each of row.querySelectorAll("input, select")) each.disabled = row.hidden;
  }
  form.querySelector(`[data-add=${what}]`).hidden = all.length === selects[0].options.length;
}

function toggleBudget(row, k) {
  const [kind, levels] = [field(row, "kind"), field(row, "levels")];
  if (isSet() && kind.selectedOptions[0].disabled) {
    kind.value = "latency";
    changeKind(row);
  }
  if (isSet() && levels.value === FRONT) levels.value = LEVEL;
  const { value: key, selectedOptions: [{ dataset: { example } }] } = kind;
  levels.dataset.key = `budget.${key}`;
  row.querySelector("small").textContent = key === DROP ? "points of validation accuracy below the dense model's, up to which the winner may lie"
    : isSet() ? `of all models together: one level, such as 50%, or ${example}`
      : `of dense, such as 50%${k ? "" : ", or a whole front: 20%..100%"}; or a number: ${example}`;
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

/** What is done to a model's data before it sees them, if anything; a field whose text cannot be read says so. */
function normalize({ elements: { mean, std } }) {
  const [means, stds] = [mean, std].map((input) => {
    const numbers = input.value.split(",").map((each) => each.trim()).filter(Boolean).map(Number);
    input.setCustomValidity(numbers.every(Number.isFinite) ? "" : `"${input.value}" is no list of numbers; allowed: one for each channel, such as 0.5, 0.25, 0.25`);
    return numbers;
  });
  return means.length + stds.length ? { normalize: { mean: means, std: stds } } : {};
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
  return { source, ...Object.fromEntries(named), ...normalize(model) };
}

/**
 * "50%, 75%" or "2.5 ms" of a kind of budget as a job file has it: a key, and one level or several.
 * Percentages are for the service to read.
 */
function levelsOf(text, { value: key, text: name, dataset: { number, units, example } }) {
  const [comma] = /[\d.]+,\d\S*/.exec(text) ?? [];
  if (comma) throw new Error(`"${comma}" may be one number or two; write a point in a number, and a space between two`);
  const levels = text.split(",").map((level) => level.trim()).filter(Boolean).map((level) => {
    if (level.endsWith("%") && key !== DROP) return level;
    const [, value, unit] = /^(\d+(?:\.\d+)?(?:e\d+)?)\s*(\S*)$/i.exec(level) ?? [];
    const cost = Number(value) * JSON.parse(units)[unit];
    if (Number.isFinite(cost)) return Number(cost.toPrecision(15));
    throw new Error(`"${level}" is no ${name}; allowed: ${key === DROP ? "points, " : "50%, 20%..100%, or a number "}such as ${example}`);
  });
  const isNumber = typeof levels[0] === "number";
  if (key !== number && levels.some((level) => (typeof level === "number") !== isNumber)) throw new Error(`percentages and numbers of ${name} are two budgets; write one kind of them`);
  return { [isNumber ? number : key]: levels.length === 1 ? levels[0] : levels };
}

/** What was typed as levels, if anything; a field whose text cannot be read says so. */
function typed(input, option) {
  input.setCustomValidity("");
  if (!input.value.trim()) return {};
  try {
    return levelsOf(input.value, option);
  } catch (error) {
    input.setCustomValidity(sentence(error));
    return {};
  }
}

function budget() {
  const asked = rows("budget").filter((row) => !row.hidden);
  return Object.assign({}, ...asked.map((row) => typed(field(row, "levels"), field(row, "kind").selectedOptions[0])));
}

/** The devices of a job; null is its default. */
function devices() {
  const [first, ...others] = rows("device").filter((row) => !row.hidden).map((row) => {
    const { value } = field(row, "device");
    const latency = field(rows("budget")[0], "kind").querySelector("[value=latency]");
    return { ...(value ? { name: value, profile: value } : { name: OWN }), ...typed(field(row, "own"), latency) };
  });
  return others.length || first.profile ? [first, ...others] : null;
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

form.addEventListener("change", ({ target }) => {
  if (target.name === "kind") changeKind(target.closest(".budget"));
  toggle();
});
/** A percentage is one of any kind of budget. */
function changeKind(row) {
  if (field(row, "kind").value === DROP || !field(row, "levels").value.includes("%")) begin(row);
}
form.addEventListener("click", ({ target }) => {
  const { remove, add: added } = target.dataset;
  if (remove) {
    target.closest(`.${remove}`).remove();
    toggle();
    form.querySelector(`[data-add=${remove}]`).focus();
  }
  if (added) {
    const row = add(added);
    toggle();
    row.querySelector("select, input").focus();
  }
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  refused.hidden = true;
  const asked = { budget: budget(), devices: devices() };
  models().forEach(normalize);
  if (!form.reportValidity()) return;
  const button = form.querySelector("button.main");
  button.disabled = true;
  try {
    const job = {
      name: form.elements.name.value,
      ...(await sentModels()),
      budget: asked.budget,
      search: { controller: form.controller.value, trials: form.trials.valueAsNumber, workers: form.workers.valueAsNumber },
      finetune: { final_steps: form.steps.valueAsNumber },
      ...(asked.devices ? { devices: asked.devices } : {}),
    };
    told("submitting", 1);
    const text = JSON.stringify(job);
    if (text !== sent.text) sent = { text, key: crypto.getRandomValues(new Uint32Array(4)).join("-") };
    const made = await call("/jobs", { method: "POST", body: job, headers: { "Idempotency-Key": sent.key } });
    location.assign(`/jobs/${made.name}`);
  } catch (error) {
    refuse(error);
    at("sending").hidden = true;
    button.disabled = false;
  }
});

/** Say what is wrong beside the field that it is about, else beside the button. */
function refuse(error) {
  const about = fieldOf(error.message);
  if (about) about.closest(".row").after(refused);
  else at("actions").before(refused);
  refused.textContent = sentence(error);
  refused.hidden = false;
  about?.focus();
}

/** The field of the key that a sentence of the API begins with; of a table the first in it. */
function fieldOf(told) {
  const [, key] = told.match(/^the job: ([\w.[\]]+)/) ?? [];
  if (!key) return undefined;
  const keyed = [...form.querySelectorAll("[data-key]:enabled")].map((each) => [keyOf(each), each]);
  const [, found] = keyed.filter(([known]) => key.startsWith(known)).sort(([a], [b]) => b.length - a.length)[0]
    ?? keyed.find(([known]) => known.startsWith(key)) ?? [];
  return found;
}

function keyOf(each) {
  const model = each.closest(".model");
  return `${model && isSet() ? `models[${models().indexOf(model)}].` : ""}${each.dataset.key}`;
}

for (const what of ["model", "device", "budget"]) add(what);
toggle();
fetchData().then(() => models().forEach(offer)).catch(refuse);
fillDevices().catch(refuse);
