// What was exported: the files of each folder, what they are, and how they are loaded.
import { call } from "./api.js";
import { element, sentence, showState, table } from "./dom.js";
import { bytes } from "./numbers.js";

const WHAT = {
  "model.onnx": "the network for ONNX Runtime and others that read ONNX",
  "model.safetensors": "weights, to train on in PyTorch",
  "graph.json": "the network as data: no code in it",
  "config.json": "units kept, accuracy, latency, versions, checksums",
  "report.html": "the report of the job that it is from",
  "README.md": "how to use all this",
};

/** List the exports of a job at `place`; `waiting` are trials that are still to come. */
export async function showExports(place, job, waiting) {
  try {
    const files = await call(`/jobs/${job}/artifacts`);
    const folders = Map.groupBy(files.filter(({ path }) => path.startsWith("export")), ({ path }) => path.slice(0, path.lastIndexOf("/")));
    const others = files.filter(({ path }) => ["report.html", "front.svg"].includes(path));
    place.replaceChildren(
      ...waiting.map((trial) => element("p.notice", { role: "status" }, `Trial ${trial} is being trained, measured and written; it appears here when it is done.`)),
      ...[...folders].map(([folder, found]) => shown(job, folder, found)),
    );
    place.closest("section").hidden = !folders.size && !waiting.length && !others.length;
    if (others.length) place.append(element("p", {}, "Also: ", ...others.flatMap(({ path }, i) => [i ? ", " : "", element("a", { href: href(job, path), target: "_blank", rel: "noopener" }, path)])));
  } catch (error) {
    place.closest("section").hidden = false;
    showState(place, "broken", sentence(error));
  }
}

const href = (job, path) => `/api/v1/jobs/${job}/artifacts/${path.split("/").map(encodeURIComponent).join("/")}`;

function shown(job, folder, files) {
  const last = folder.split("/").at(-1);
  const name = folder === "export" ? "The winner" : last.replace(/^trial-/, "Trial ");
  const local = folder === "export" ? job : `${job}-${last}`;
  const size = files.reduce((sum, file) => sum + file.bytes, 0);
  return element("article.export", { "data-folder": folder },
    element("div.head", {}, element("h3", {}, name), element("a.button.main", { href: `/api/v1/jobs/${job}/archives/${folder}`, download: `${local}.zip` }, `Download all, ${bytes(size)}`)),
    element("div.panes", {},
      table([
        ["file", ({ path }) => element("a", { href: href(job, path), download: path.split("/").at(-1) }, path.split("/").at(-1))],
        ["what it is", ({ path }) => WHAT[path.split("/").at(-1)] ?? ""],
        ["size", ({ bytes: size }) => bytes(size), true],
      ], files),
      element("div", {},
        element("p.quiet", {}, `From ${local}.zip, unpacked, or with these files in a folder ${local}:`),
        element("pre", {}, `import search\n\nnetwork = search.load("${local}")`),
        element("p.quiet", {}, "or without PyTorch:"),
        element("pre", {}, `import onnxruntime\n\nsession = onnxruntime.InferenceSession("${local}/model.onnx")`))));
}
