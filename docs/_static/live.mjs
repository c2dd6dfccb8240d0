// Updates the answers of a page's tools when a reader changes their forms. The course's Python code
// computes the answers in live-worker.mjs. If Python can't run, the page keeps its first answers.

const here = (path) => new URL(path, import.meta.url);
const HUB = "https://huggingface.co";
// Time limits in milliseconds. If Python takes longer to start, including the download of 13 MB, or
// to compute an answer, it has failed.
const START_LIMIT = 300_000;
const ANSWER_LIMIT = 15_000;
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

const textOf = (field) => (field.type === "checkbox" ? String(Number(field.checked)) : field.value);

// Returns the text that a field has in the page's HTML.
function firstTextOf(field) {
  if (field.type === "checkbox") return String(Number(field.defaultChecked));
  const option = [...(field.options ?? [])].find(({ defaultSelected }) => defaultSelected);
  return option ? option.value : field.defaultValue;
}

class Tool {
  constructor(section, ask) {
    this.name = section.dataset.tool;
    this.form = section.querySelector("form");
    this.output = section.querySelector(".live-answer");
    this.status = section.querySelector(".live-status");
    this.ask = ask;
    // The answer in the page belongs to the first texts, but a browser may have restored others.
    this.first = this.texts(firstTextOf);
    this.asked = this.first;
    this.waiting = false;
    this.changed = false;
    this.form.addEventListener("input", ({ target }) => {
      if (!target.matches("[data-hub], [data-file]")) this.edited();
    });
    this.form.addEventListener("submit", (event) => event.preventDefault());
    // The browser resets the fields only after this event.
    this.form.addEventListener("reset", () => setTimeout(() => this.edited()));
    section.addEventListener("click", (event) => this.click(event));
    this.form.querySelector("[data-file]")?.addEventListener("change", (event) => this.readFile(event));
    this.form.querySelector("[data-hub]")?.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.fetchConfig(event.target.dataset.hub);
    });
    this.configStatus = this.form.querySelector("[data-config-status]");
    this.requests = 0;
    this.showUsed();
  }

  fields() {
    return [...this.form.elements].filter((field) => field.name);
  }

  // The text of each field, as workshop.publishing.live reads it.
  texts(read = textOf) {
    return Object.fromEntries(this.fields().map((field) => [field.name, read(field)]));
  }

  // Sets fields to other texts. Unknown names, and texts that a field can't have, are ignored.
  set(texts) {
    for (const field of this.fields()) {
      const text = texts[field.name];
      const menu = field.type === "checkbox" ? ["0", "1"] : [...(field.options ?? [])].map(textOf);
      if (text === undefined || (menu.length > 0 && !menu.includes(text))) continue;
      if (field.type === "number" && !/^-?\d+$/.test(text)) continue;
      if (field.type === "checkbox") field.checked = text === "1";
      else field.value = text;
    }
    this.update();
  }

  // Updates the answer after a change by the reader, and ignores configs that the hub still sends.
  edited() {
    this.requests += 1;
    if (this.configStatus) this.configStatus.textContent = "";
    this.update();
  }

  // Computes an answer if the fields have changed without an event, as when the reader goes back.
  refresh() {
    if (JSON.stringify(this.texts()) !== JSON.stringify(this.asked)) this.update();
  }

  // Hides the fields that the method or the model doesn't use.
  showUsed() {
    const texts = this.texts();
    for (const part of this.form.querySelectorAll("[data-only-if]")) {
      const [name, values] = part.dataset.onlyIf.split("=");
      part.hidden = Boolean(values) && !values.split(",").includes(texts[name]);
    }
  }

  // Asks for an answer. If the reader changes fields while an answer is being computed, only the
  // latest texts are asked about next.
  async update() {
    this.showUsed();
    this.changed = true;
    if (this.waiting) return;
    this.waiting = true;
    while (this.changed) {
      this.changed = false;
      const texts = this.texts();
      try {
        this.asked = texts;
        if (this.name === "fit") this.link();
        this.show(await this.ask(this.name, texts));
      } catch (error) {
        clearTimeout(this.announced);
        // Usually only screen readers show this element, but everybody must see an error.
        this.status.classList.remove("visually-hidden");
        this.status.textContent = error.message;
      }
    }
    this.waiting = false;
  }

  show(html) {
    const opened = [...this.output.querySelectorAll("details")].map((part) => part.open);
    const focused = this.output.contains(document.activeElement);
    this.output.innerHTML = html;
    this.status.classList.add("visually-hidden");
    this.output.querySelectorAll("details").forEach((part, n) => (part.open = opened[n] ?? false));
    // The button that the reader has pressed is gone, and the focus must not be lost with it.
    if (focused) this.output.querySelector("button, summary")?.focus();
    this.output.dataset.computed = String(Number(this.output.dataset.computed ?? 0) + 1);
    clearTimeout(this.announced);
    const words = this.output.querySelector("[data-say], [role=alert]")?.textContent ?? "";
    // While a reader types, a screen reader should not read each answer.
    this.announced = setTimeout(() => (this.status.textContent = words), 700);
  }

  // Puts the settings into the address. If all fields have their first texts and the address
  // ends with a heading, such as #about-this-page, the address stays as it is.
  link() {
    const link = this.address();
    if (link.href === location.href || !(link.hash || location.hash.includes("="))) return;
    try {
      history.replaceState(null, "", link);
    } catch {
      // Browsers refuse many changes within a short time. A copied link has the settings anyway.
    }
  }

  // Returns the address of the page with the changed texts of visible fields, unless they are long.
  address() {
    const changed = this.fields().filter((field) => {
      const isLong = field.value.length > Number(field.dataset.most ?? Infinity);
      return !field.closest("[hidden]") && !isLong && textOf(field) !== this.first[field.name];
    });
    const link = new URL(location);
    link.hash = new URLSearchParams(changed.map((field) => [field.name, textOf(field)]));
    return link;
  }

  click({ target }) {
    const button = target.closest("button");
    if (!button) return;
    if (button.dataset.set) this.set(JSON.parse(button.dataset.set));
    if (button.dataset.copy === "link") this.copy(button, this.address().href);
    if (button.dataset.copy === "code") this.copy(button, button.previousElementSibling.textContent);
    if (button.dataset.fetch) this.fetchConfig(button.dataset.fetch);
  }

  async copy(button, words) {
    button.dataset.label ??= button.textContent;
    try {
      await navigator.clipboard.writeText(words);
      button.textContent = "Copied";
    } catch {
      // Browsers allow this only to pages that were loaded over HTTPS or from this machine.
      button.textContent = "This browser doesn't allow the page to copy";
    }
    setTimeout(() => (button.textContent = button.dataset.label), 1500);
  }

  async readFile({ target }) {
    const [file] = target.files;
    if (!file) return;
    // Otherwise the browser would not report it if the reader chooses the same, edited file again.
    target.value = "";
    this.edited();
    const most = Number(this.form.elements[target.dataset.file].dataset.most);
    if (file.size > most) {
      this.configStatus.textContent =
        `${file.name} has ${file.size.toLocaleString("en")} bytes, so it is no config.json. ` +
        `At most ${most.toLocaleString("en")} are read.`;
      return;
    }
    this.set({ [target.dataset.file]: await file.text() });
    this.configStatus.textContent = `This is ${file.name}.`;
  }

  async fetchConfig(name) {
    const model = this.form.querySelector("[data-hub]").value.trim();
    if (!REPOSITORY.test(model)) {
      this.configStatus.textContent = "Please enter a name such as Qwen/Qwen3-4B.";
      return;
    }
    const request = ++this.requests;
    this.configStatus.textContent = `Asking the hub for ${model} …`;
    let config = null;
    let result = `This is the config.json of ${model}.`;
    try {
      const response = await fetch(`${HUB}/${model}/resolve/main/config.json`);
      if (!response.ok) throw new Error(`the hub answered ${response.status}`);
      config = await response.text();
      if (!config.trimStart().startsWith("{")) throw new Error("it is not JSON");
    } catch (error) {
      config = null;
      result =
        `The config.json of ${model} can't be read (${error.message}). ` +
        "Please download it and choose the file, or paste its text.";
    }
    // The reader may have asked for another config meanwhile.
    if (request !== this.requests) return;
    this.configStatus.textContent = result;
    if (config !== null) this.set({ [name]: config });
  }
}

// Runs Python in a worker, which is replaced if an answer makes it fail or takes too long.
class Python {
  constructor() {
    this.waiting = new Map();
    this.count = 0;
    this.start();
  }

  start() {
    this.worker = new Worker(here("live-worker.mjs"), { type: "module" });
    this.ready = false;
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => this.fail(event.message || "its files can't be loaded");
    for (const { question } of this.waiting.values()) this.worker.postMessage(question);
    this.limit(START_LIMIT);
  }

  // Returns a promise of a tool's answer to the texts of its form, as HTML.
  answer(tool, texts) {
    return new Promise((resolve, reject) => {
      if (this.broken) return reject(this.broken);
      const id = ++this.count;
      const question = { id, tool, texts };
      this.waiting.set(id, { question, resolve, reject });
      this.worker.postMessage(question);
      if (this.ready) this.limit(ANSWER_LIMIT);
    });
  }

  receive({ id, html, failure, ready }) {
    if (failure) return this.fail(failure.trim().split("\n").at(-1), id);
    clearTimeout(this.timer);
    if (ready) {
      this.ready = true;
      for (const line of document.querySelectorAll(".live-waiting")) line.remove();
    }
    this.waiting.get(id)?.resolve(html);
    this.waiting.delete(id);
    if (this.waiting.size > 0) this.limit(ANSWER_LIMIT);
  }

  limit(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fail("it took too long"), milliseconds);
  }

  // Starts Python again if it has worked before. The question that made it fail, which is the oldest
  // one unless it is known, is not asked again.
  fail(reason, id = this.waiting.keys().next().value) {
    clearTimeout(this.timer);
    this.worker.terminate();
    if (this.ready) {
      const stopped = `Python can't compute an answer to these settings (${reason}). Please change one.`;
      this.waiting.get(id)?.reject(new Error(stopped));
      this.waiting.delete(id);
      return this.start();
    }
    this.broken = new Error(`Python can't run in this browser (${reason}), so the answer stays as it is.`);
    for (const { reject } of this.waiting.values()) reject(this.broken);
    this.waiting.clear();
  }
}

const python = new Python();
const ask = (tool, texts) => python.answer(tool, texts);
const tools = [...document.querySelectorAll("[data-tool]")].map((section) => new Tool(section, ask));
const fit = tools.find((tool) => tool.name === "fit");

// A link holds the texts of the tool "fit" behind the character #, unless it leads to a heading.
// Fields that are not in the link get their first texts.
function followLink() {
  fit.set({ ...fit.first, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) });
}

if (fit) {
  followLink();
  window.addEventListener("hashchange", () => location.hash.includes("=") && followLink());
}
window.addEventListener("pageshow", () => tools.forEach((tool) => tool.refresh()));

// After the first visit, the page also works without a network. Browsers allow this only if the page
// comes from https or from this machine, and not in every private window.
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
