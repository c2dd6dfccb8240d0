// Compiles the course's modules, and the modules of the standard library that the tools use, to
// Pyodide's bytecode, so that a browser starts Python and the tools sooner. The other modules of the
// standard library are left out.
//
// Usage: node compile_python.mjs FOLDER, the folder with course.zip and pyodide/
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const { loadPyodide } = await import(pathToFileURL(`${folder}/pyodide/pyodide.mjs`));
const python = await loadPyodide({ indexURL: `${folder}/pyodide` });
const read = (path) => new Uint8Array(readFileSync(path));

python.unpackArchive(read(`${folder}/course.zip`), "zip", { extractDir: "/course" });
const used = python.runPython(`
import sys, traceback
sys.path.insert(0, "/course")
from workshop.publishing import live
for name, tool in live.TOOLS.items():
    live.answer(name, {})
    live.answer(name, dict.fromkeys(tool.controls, "not allowed"))
live.answer("fit", {"model": "config", "config": "{"})
# Pyodide writes a traceback if a tool has an error.
try:
    live.answer("no such tool", {})
except KeyError:
    traceback.format_exc()
files = (getattr(module, "__file__", None) or "" for module in sys.modules.values())
{file.partition(".zip/")[2] for file in files if ".zip/" in file}
`);
python.runPython(readFileSync(new URL("bytecode.py", import.meta.url), "utf8"));
const withBytecode = python.globals.get("with_bytecode");
for (const [name, modules] of [["course.zip", undefined], ["pyodide/python_stdlib.zip", used]]) {
  const path = `${folder}/${name}`;
  const archive = python.toPy(read(path)).tobytes();
  writeFileSync(path, withBytecode(archive, modules).toJs());
}
