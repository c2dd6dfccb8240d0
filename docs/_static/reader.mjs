// Keeps what a reader does on the website in the reader's browser: predictions, and which lectures
// and exercises are done. Nothing is sent anywhere.

const PLACE = "qlora-course";

// --- storage ---

// Another page or an older version of this one may have stored anything.
const asObject = (value) => (value && typeof value === "object" ? value : {});

function load() {
  let kept;
  try {
    kept = JSON.parse(localStorage.getItem(PLACE));
  } catch {
    // The browser may forbid storage.
  }
  const { guesses, done } = asObject(kept);
  return { guesses: asObject(guesses), done: asObject(done) };
}

function store(change) {
  const kept = load();
  change(kept);
  try {
    localStorage.setItem(PLACE, JSON.stringify(kept));
  } catch {
    // Without storage, everything works until the page is closed.
  }
  return kept;
}

// --- predictions: Python has written the words about each choice into the page ---

class Prediction {
  constructor(form) {
    this.form = form;
    this.key = form.dataset.predict;
    this.fields = [...form.querySelectorAll("[name=guess]")];
    this.status = form.querySelector("[role=status]");
    this.answer = document.querySelector(`[data-reveal="${CSS.escape(this.key)}"]`);
    const guess = load().guesses[this.key];
    // The question may have had other choices when the guess was made.
    const isKnown = !this.hasChoices || this.fields.some((field) => field.value === guess);
    this.guess = typeof guess === "string" && isKnown ? guess : null;
    this.fill();
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", ({ target }) => this.keep(target.value.trim() || null));
  }

  // Shows the kept guess in the form.
  fill() {
    for (const field of this.fields) {
      if (this.hasChoices) field.checked = field.value === this.guess;
      else field.value = this.guess ?? "";
    }
    this.show();
  }

  keep(guess) {
    this.guess = guess;
    store(({ guesses }) => {
      if (guess === null) delete guesses[this.key];
      else guesses[this.key] = guess;
    });
    this.show();
    showTallies();
  }

  show() {
    this.status.textContent = this.guess === null ? "" : "Your guess is kept in this browser.";
    const place = this.answer?.querySelector("[role=status]");
    place?.replaceChildren();
    if (!place || this.guess === null) return;
    const { words, answer } = this.answer.dataset;
    const ready = new Map(Object.entries(JSON.parse(words))).get(this.guess);
    const [first, rest] = ready ?? [`You wrote “${this.guess}”.`, answer];
    const bold = document.createElement("strong");
    bold.textContent = first;
    place.append(bold, ` ${rest}`);
  }

  get hasChoices() {
    return this.fields[0].type === "radio";
  }
}

const predictions = [...document.querySelectorAll("[data-predict]")].map((form) => new Prediction(form));

function showTallies() {
  for (const place of document.querySelectorAll("[data-tally]")) {
    const made = predictions.filter(({ guess }) => guess !== null);
    const judged = made.filter(({ answer, hasChoices }) => answer && hasChoices);
    const right = judged.filter(({ guess, answer }) => guess === answer.dataset.right);
    const sentence = document.createElement("p");
    sentence.textContent =
      `You predicted ${made.length} of ${place.dataset.tally} results.` +
      (judged.length ? ` Of your choices, ${right.length} of ${judged.length} were right.` : "");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Forget my guesses of this lecture";
    button.disabled = !made.length;
    button.addEventListener("click", () => {
      for (const prediction of predictions) {
        prediction.keep(null);
        prediction.fill();
      }
    });
    place.replaceChildren(sentence, button);
  }
}

// --- progress ---

function showProgress() {
  const { guesses, done } = load();
  for (const box of document.querySelectorAll("[data-done]")) box.checked = box.dataset.done in done;
  for (const cell of document.querySelectorAll("[data-guessed]")) {
    const made = Object.keys(guesses).filter((key) => key.startsWith(`${cell.dataset.guessed}/`));
    cell.textContent = `${made.length} of ${cell.dataset.count}`;
  }
  for (const place of document.querySelectorAll("[data-progress]")) {
    const boxes = [...document.querySelectorAll("[data-done]")];
    const count = boxes.filter((box) => box.checked).length;
    place.textContent = `You have done ${count} of ${boxes.length} lectures and exercises.`;
  }
}

document.addEventListener("change", ({ target }) => {
  const name = target.dataset?.done;
  if (!name) return;
  store(({ done }) => {
    if (target.checked) done[name] = true;
    else delete done[name];
  });
  showProgress();
});

document.querySelector("[data-forget]")?.addEventListener("click", () => {
  if (!confirm("Forget all guesses and the whole progress in this browser?")) return;
  store((kept) => Object.assign(kept, { guesses: {}, done: {} }));
  showProgress();
});

showTallies();
showProgress();
