// Makes the answers of a page's tools follow their forms. The course's Python code computes the
// answers in live-worker.mjs. Without it, the answers that are part of the page stay.

const here = (path) => new URL(path, import.meta.url);
const HUB = "https://huggingface.co";
// The hub's names of repositories: OWNER/NAME.
const REPOSITORY = /^[\w.-]+\/[\w.-]+$/;

// The files that the worker loads.
const PYTHON = [
  "course.zip",
  "live-worker.mjs",
  "pyodide/pyodide-lock.json",
  "pyodide/pyodide.asm.mjs",
  "pyodide/pyodide.asm.wasm",
  "pyodide/pyodide.mjs",
  "pyodide/python_stdlib.zip",
];

class Tool {
  constructor(section, ask) {
    this.name = section.dataset.tool;
    this.form = section.querySelector("form");
    this.output = section.querySelector(".live-answer");
    this.status = section.querySelector(".live-status");
    this.ask = ask;
    this.first = this.texts();
    this.waiting = false;
    this.changed = false;
    this.form.addEventListener("input", () => this.update());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    // The fields have their first values again only after this event.
    this.form.addEventListener("reset", () => setTimeout(() => this.update()));
    section.addEventListener("click", (event) => this.click(event));
    this.form.querySelector("[data-file]")?.addEventListener("change", (event) => this.readFile(event));
    this.showUsed();
  }

  fields() {
    return [...this.form.elements].filter((field) => field.name);
  }

  // The text of each field, as course_utils.live reads it.
  texts() {
    const text = (field) => (field.type === "checkbox" ? String(Number(field.checked)) : field.value);
    return Object.fromEntries(this.fields().map((field) => [field.name, text(field)]));
  }

  // Sets fields to other texts. Unknown names are ignored.
  set(texts) {
    for (const field of this.fields()) {
      if (!(field.name in texts)) continue;
      if (field.type === "checkbox") field.checked = texts[field.name] === "1";
      else field.value = texts[field.name];
    }
    this.update();
  }

  // Hides the fields that the method or the model doesn't use.
  showUsed() {
    const texts = this.texts();
    for (const part of this.form.querySelectorAll("[data-only-if]")) {
      const [name, values] = part.dataset.onlyIf.split("=");
      part.hidden = Boolean(values) && !values.split(",").includes(texts[name]);
    }
  }

  // Asks for an answer. While one is being computed, only the newest texts wait for their turn.
  async update() {
    this.showUsed();
    this.changed = true;
    if (this.waiting) return;
    this.waiting = true;
    while (this.changed) {
      this.changed = false;
      const texts = this.texts();
      try {
        this.show(await this.ask(this.name, texts));
        if (this.name === "fit") this.link(texts);
      } catch (error) {
        // Screen readers read each answer from this place, which is hidden from everybody else.
        this.status.classList.remove("visually-hidden");
        this.status.textContent = failed(error);
      }
    }
    this.waiting = false;
  }

  show(html) {
    const opened = [...this.output.querySelectorAll("details")].map((part) => part.open);
    const focused = this.output.contains(document.activeElement);
    this.output.innerHTML = html;
    this.output.querySelectorAll("details").forEach((part, n) => (part.open = opened[n] ?? false));
    // A button that the reader has pressed is gone: the focus must not be lost with it.
    if (focused) this.output.querySelector("button, summary")?.focus();
    this.output.dataset.computed = String(Number(this.output.dataset.computed ?? 0) + 1);
    clearTimeout(this.announced);
    const words = this.output.querySelector("[data-say], [role=alert]")?.textContent ?? "";
    // While a reader types, a screen reader should not read each answer.
    this.announced = setTimeout(() => (this.status.textContent = words), 700);
  }

  // Puts the texts that differ from the first ones into the address.
  link(texts) {
    const changed = Object.entries(texts).filter(([name, text]) => text !== this.first[name]);
    const hash = new URLSearchParams(changed).toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  click({ target }) {
    const button = target.closest("button");
    if (!button) return;
    if (button.dataset.set) this.set(JSON.parse(button.dataset.set));
    if (button.dataset.copy === "link") this.copy(button, location.href);
    if (button.dataset.copy === "code") this.copy(button, button.previousElementSibling.textContent);
    if (button.dataset.fetch) this.fetchConfig(button.dataset.fetch);
  }

  async copy(button, words) {
    await navigator.clipboard.writeText(words);
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = before), 1500);
  }

  async readFile({ target }) {
    const [file] = target.files;
    if (file) this.set({ [target.dataset.file]: await file.text() });
  }

  async fetchConfig(name) {
    const status = this.form.querySelector("[data-config-status]");
    const model = this.form.querySelector("[data-hub]").value.trim();
    if (!REPOSITORY.test(model)) {
      status.textContent = "Please enter a name such as Qwen/Qwen3-4B.";
      return;
    }
    status.textContent = `Asking the hub for ${model} …`;
    try {
      const response = await fetch(`${HUB}/${model}/resolve/main/config.json`);
      if (!response.ok) throw new Error(`the hub answered ${response.status}`);
      this.set({ [name]: await response.text() });
      status.textContent = `This is the config.json of ${model}.`;
    } catch (error) {
      status.textContent =
        `The config.json of ${model} can't be read (${error.message}). ` +
        "Please download it and choose the file, or paste its text.";
    }
  }
}

function failed(error) {
  return `Python can't run in this browser, so only the first answer is shown. (${error.message})`;
}

// Returns a function that asks Python for the answer of a tool to some texts.
function startPython() {
  const worker = new Worker(here("live-worker.mjs"), { type: "module" });
  const waiting = new Map();
  let broken = null;
  const fail = (message) => {
    broken = new Error(message);
    for (const { reject } of waiting.values()) reject(broken);
    waiting.clear();
  };
  worker.onmessage = ({ data: { id, html, failure } }) => {
    if (failure) fail(failure.trim().split("\n").at(-1));
    else for (const line of document.querySelectorAll(".live-waiting")) line.remove();
    waiting.get(id)?.resolve(html);
    waiting.delete(id);
  };
  worker.onerror = (event) => fail(event.message || "its files can't be loaded");
  let count = 0;
  return (tool, texts) =>
    new Promise((resolve, reject) => {
      if (broken) return reject(broken);
      const id = ++count;
      waiting.set(id, { resolve, reject });
      worker.postMessage({ id, tool, texts });
    });
}

const ask = startPython();
const tools = [...document.querySelectorAll("[data-tool]")].map((section) => new Tool(section, ask));
const fit = tools.find((tool) => tool.name === "fit");

// A link holds the texts of the tool "fit" behind the character #, unless it leads to a heading.
// Texts that are not in the link are the first ones.
function followLink() {
  fit.set({ ...fit.first, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) });
}

if (fit) {
  followLink();
  window.addEventListener("hashchange", () => location.hash.includes("=") && followLink());
}

// After the first visit, the page also works without a network. Browsers allow this only to pages
// from https or from this machine, and not in every private window.
async function workOffline() {
  await navigator.serviceWorker.register(here("../offline.js"));
  await navigator.serviceWorker.ready;
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  const python = PYTHON.map((name) => here(name).href);
  const own = [location.pathname, ...loaded, ...python].filter(
    (url) => new URL(url, location).origin === location.origin,
  );
  const cache = await caches.open("course");
  await Promise.allSettled([...new Set(own)].map((url) => cache.add(url)));
  document.documentElement.dataset.offline = "ready";
}

if ("serviceWorker" in navigator) {
  window.addEventListener("load", () => workOffline().catch(() => {}));
}
