// Runs the course's Python code in a worker, so that the page never freezes.
import { loadPyodide } from "./pyodide/pyodide.mjs";

// Settings that don't fit. The first such answer takes longer than later ones, because the search
// for smaller models reads the configs of all models. So Python computes this answer at the start.
const LARGE = { batch_size: "64", sequence_length: "8192" };

const fail = (error) => postMessage({ failure: String(error?.message ?? error) });

// If a file of Pyodide can't be loaded, `loadPyodide` may neither return nor fail.
addEventListener("unhandledrejection", ({ reason }) => fail(reason));
const compile = WebAssembly.instantiateStreaming;
WebAssembly.instantiateStreaming = async (source, imports) => {
  try {
    const response = await source;
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    // Some servers send WebAssembly with a type that browsers refuse to compile.
    const named = response.headers.get("Content-Type") === "application/wasm";
    return await (named
      ? compile(response, imports)
      : WebAssembly.instantiate(await response.arrayBuffer(), imports));
  } catch (error) {
    fail(error);
    throw error;
  }
};

const started = loadPython();

async function loadPython() {
  const [python, source] = await Promise.all([
    loadPyodide(),
    fetch(new URL("course.zip", import.meta.url)).then((response) => response.arrayBuffer()),
  ]);
  python.unpackArchive(source, "zip", { extractDir: "/course" });
  python.runPython('import sys; sys.path.insert(0, "/course")');
  const live = python.pyimport("workshop.publishing.live");
  live.answer("fit", JSON.stringify(LARGE));
  postMessage({ ready: true });
  return live;
}

onmessage = async ({ data: { id, tool, texts } }) => {
  try {
    const live = await started;
    postMessage({ id, html: live.answer(tool, JSON.stringify(texts)) });
  } catch (error) {
    postMessage({ id, failure: String(error.message ?? error) });
  }
};
