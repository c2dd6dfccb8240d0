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

// --- numbers: the same words as course_utils/guesses.py ---

const LARGEST = 1e30;
const SMALLEST = 1e-30;
const NUMBER = /^([+-]?(?:\d{1,3}(?:[,_ \u00a0\u202f]\d{3})+|\d*)(?:\.\d*)?(?:[eE][+-]?\d{1,3})?)\s*(.*)$/;

// Returns the number that a reader typed, null for an empty text, or undefined for anything else.
export function parsed(typed, unit) {
  const text = typed.trim().replace("−", "-");
  if (!text) return null;
  const match = text.length <= 40 && NUMBER.exec(text);
  if (!match || !/\d/.test(match[1])) return undefined;
  const factors = { "": 1, [unit.toLowerCase()]: 1, ...(unit ? {} : { "%": 0.01 }) };
  const number = Number(match[1].replace(/[,_\s]/g, "")) * factors[match[2].toLowerCase()];
  const allowed = number === 0 || (Math.abs(number) >= SMALLEST && Math.abs(number) <= LARGEST);
  return allowed ? number : undefined;
}

// Writes a number like Python's format "g" with some significant digits.
function general(number, digits) {
  const [fraction, exponent] = number.toExponential(digits - 1).split("e");
  const power = Number(exponent);
  if (power >= -4 && power < digits) return String(Number(number.toPrecision(digits)));
  const size = String(Math.abs(power)).padStart(2, "0");
  return `${Number(fraction)}e${power < 0 ? "-" : "+"}${size}`;
}

function grouped(number, decimals) {
  return number.toLocaleString("en-US", {
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
  });
}

export function withUnit(value, unit) {
  const size = Math.abs(value);
  let number;
  if (value !== 0 && !(size >= 1e-4 && size < 1e9)) number = general(value, 3);
  else if (Number.isInteger(value)) number = grouped(value, 0);
  else number = grouped(value, Math.max(0, 2 - Math.floor(Math.log10(size))));
  return unit === "" || unit === "%" ? `${number}${unit}` : `${number} ${unit}`;
}

export function distance(guess, truth, unit) {
  if (guess === truth) return "exactly right";
  const side = guess > truth ? "too high" : "too low";
  if (Math.min(guess, truth) <= 0) return `${withUnit(Math.abs(guess - truth), unit)} ${side}`;
  const times = Math.max(guess, truth) / Math.min(guess, truth);
  if (Math.abs(guess - truth) <= 0.1 * Math.abs(truth)) {
    const percent = 100 * Math.abs(guess / truth - 1);
    return percent >= 0.1 ? `${general(percent, 2)}% ${side}` : `less than 0.1% ${side}`;
  }
  if (times > 1e6) return `more than a million times ${side}`;
  return `${grouped(times, times < 9.95 ? 1 : 0)} times ${side}`;
}

// --- predictions ---

class Prediction {
  constructor(form) {
    this.form = form;
    this.key = form.dataset.predict;
    this.unit = form.dataset.unit;
    this.status = form.querySelector("[role=status]");
    this.answer = document.querySelector(`[data-reveal="${CSS.escape(this.key)}"]`);
    const guess = load().guesses[this.key];
    this.guess = typeof guess === "string" ? guess : null;
    this.fill();
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => this.read());
  }

  // Shows the kept guess in the form.
  fill() {
    for (const field of this.form.querySelectorAll("[name=guess]")) {
      if (field.type === "radio") field.checked = field.value === this.guess;
      else field.value = this.guess ?? "";
    }
    this.show();
  }

  read() {
    const field = this.form.querySelector("[type=radio]:checked, [type=text]");
    if (field.type === "text" && parsed(field.value, this.unit) === undefined) {
      const unit = this.unit ? ` in ${this.unit}` : "";
      this.status.textContent = `Please type one number${unit}, such as 14.7 or 1,000 or 1e9.`;
      return;
    }
    this.keep(field.value.trim() || null);
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
    const kept = "Your guess is kept in this browser.";
    this.status.textContent = this.guess === null ? "" : kept;
    if (!this.answer) return;
    const [first, rest] = this.comparison() ?? ["", ""];
    const bold = document.createElement("strong");
    bold.textContent = first;
    this.answer.querySelector("[role=status]").replaceChildren(bold, ` ${rest}`);
  }

  // Returns the first words and the rest of the comparison with the answer, null without a guess.
  comparison() {
    if (this.guess === null) return null;
    const { words, answer, truth } = this.answer.dataset;
    const ready = JSON.parse(words)[this.guess];
    if (ready) return ready;
    const guess = parsed(this.guess, this.unit);
    if (typeof guess !== "number") return null;
    const off = distance(guess, JSON.parse(truth), this.unit);
    return [`You guessed ${withUnit(guess, this.unit)}.`, `${answer.slice(0, -1)}: your guess was ${off}.`];
  }

  // Whether the right choice was chosen; null without a guess, an answer or choices.
  get isRight() {
    if (this.guess === null || !this.answer || !this.form.querySelector("[type=radio]")) return null;
    return this.guess === this.answer.dataset.right;
  }
}

const predictions = [...document.querySelectorAll("[data-predict]")].map((form) => new Prediction(form));

function showTallies() {
  for (const place of document.querySelectorAll("[data-tally]")) {
    const made = predictions.filter((prediction) => prediction.guess !== null);
    const judged = made.filter((prediction) => prediction.isRight !== null);
    const right = judged.filter((prediction) => prediction.isRight);
    const sentence = document.createElement("p");
    sentence.textContent =
      `You predicted ${made.length} of ${place.dataset.count} results.` +
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
