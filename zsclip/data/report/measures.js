// How many answers are right, where the true labels are known; and the start of the page.
const MATRIX = 60, PAIRS = 1000;  // labels of a whole matrix, and mistakes that are listed
const asked = new URLSearchParams(location.hash.slice(1));  // by the address

// Counts of answers by true label; the labels of both kinds are keys of sections.
function tally() {
  const counts = new Map(), answers = new Map(), words = new Set();
  for (const row of rows) {
    if (row[TRUTH] === null || row[ERROR] !== null) continue;
    const truth = "=" + row[TRUTH];
    words.add(truth);
    if (!counts.has(truth)) counts.set(truth, { images: 0, of: new Map() });
    const its = counts.get(truth);
    its.images += 1;
    for (const key of sectionsOf(row)) {
      words.add(key);
      answers.set(key, (answers.get(key) ?? 0) + 1);
      its.of.set(key, (its.of.get(key) ?? 0) + 1);
    }
  }
  return { counts, answers, labels: [...words].sort(inOrder) };
}

const percent = (share) => Number.isNaN(share) ? "" : (100 * share).toFixed(1) + "%";
const mean = (shares) => shares.reduce((sum, share) => sum + share, 0) / shares.length;

function tableRow(part, head, cells) {
  const row = part.insertRow(), first = document.createElement("th");
  first.textContent = first.title = head;
  row.append(first);
  for (const text of cells) row.insertCell().textContent = text;
  return row;
}

function headed(table, names) {
  const head = table.createTHead().insertRow();
  for (const name of names) {
    const cell = document.createElement("th");
    cell.textContent = name;
    head.append(cell);
  }
  return table.createTBody();
}

// Precision, recall and F1 of a label.
function measuresOf({ counts, answers }, truth) {
  const { images, of } = counts.get(truth), right = of.get(truth) ?? 0, answered = answers.get(truth) ?? 0;
  return { images, right, recall: right / images, precision: right / answered, f1: 2 * right / (images + answered) };
}

function measures() {
  const found = tally(), { counts, labels } = found;
  if (!counts.size) return;
  const each = new Map([...counts.keys()].sort(inOrder).map((truth) => [truth, measuresOf(found, truth)])), all = [...each.values()];
  const sum = (name) => all.reduce((total, one) => total + one[name], 0);
  const named = labels.filter((key) => key[0] === "=").length;  // those that are only answered have an F1 of 0
  by("overall").textContent = `${counted(sum("images"), "image")} with a true label: ${percent(sum("right") / sum("images"))} right, ` +
    `balanced accuracy ${percent(mean(all.map(({ recall }) => recall)))}, macro-F1 ${percent(sum("f1") / named)}`;
  by("measures").hidden = false;
  const fill = () => { perLabel(each, counts); mistakes(counts); if (labels.length <= MATRIX) matrix(found); };
  if (labels.length <= MATRIX) fill(); else by("measures").addEventListener("toggle", fill, { once: true });
}

function perLabel(each, counts) {
  const body = headed(by("per-label"), ["label", "images", "right", "precision", "F1", "most often taken for"]);
  for (const [truth, { images, recall, precision, f1 }] of each) {
    const wrong = [...counts.get(truth).of].filter(([key]) => key !== truth).sort(([, a], [, b]) => b - a)[0];
    tableRow(body, titleOf(truth), [images, percent(recall), percent(precision), percent(f1), wrong ? `${titleOf(wrong[0])} (${wrong[1]})` : ""]);
  }
}

function mistakes(counts) {
  const pairs = [...counts].flatMap(([truth, { images, of }]) => [...of].filter(([key]) => key !== truth).map(([key, count]) => [truth, key, count, images]));
  pairs.sort(([, , a], [, , b]) => b - a);
  const body = headed(by("mistakes"), ["truth", "answer", "images", "of all of this truth"]);
  for (const [truth, key, count, images] of pairs.slice(0, PAIRS)) tableRow(body, titleOf(truth), [titleOf(key), count, percent(count / images)]);
  if (pairs.length > PAIRS) tableRow(body, `and ${(pairs.length - PAIRS).toLocaleString("en")} more pairs`, []);
}

function matrix({ counts, labels }) {
  const body = headed(by("matrix"), ["", ...labels.map(titleOf)]);
  for (const truth of labels.filter((key) => key[0] === "=")) {
    const { images, of } = counts.get(truth) ?? { images: 0, of: new Map() };
    const row = tableRow(body, titleOf(truth), labels.map((key) => of.get(key) ?? ""));
    labels.forEach((key, place) => {
      if (!of.has(key)) return;
      row.cells[place + 1].className = "on";
      row.cells[place + 1].style.setProperty("--share", Math.round(80 * of.get(key) / images) + "%");
    });
  }
}

function survey() {
  const counts = new Map();
  for (const row of rows) for (const key of sectionsOf(row)) counts.set(key, (counts.get(key) ?? 0) + 1);
  const wrong = rows.filter(isWrong).length;
  if (wrong) counts.set("*" + MISTAKES, wrong);
  const options = [...counts.keys()].sort((a, b) => (a[0] === "*" ? 0 : 1) - (b[0] === "*" ? 0 : 1) || (a < b ? -1 : 1));
  const choice = by("section").value || asked.get("section") || "";
  by("section").replaceChildren(new Option("all", ""), new Option("", "*" + CORRECTED), ...options.map((key) => new Option(`${titleOf(key)} (${counts.get(key)})`, key)));
  by("section").value = choice;
  if (by("section").selectedIndex < 0) by("section").value = "";
  const labels = [...counts.keys()].filter((key) => key[0] === "=").length;
  const parts = [counted(facts.count ?? rows.length, "image"), counted(labels, "label")];
  for (const key of [UNKNOWN, FAILED, MISTAKES]) if (counts.has("*" + key)) parts.push(`${counts.get("*" + key)} ${key}`);
  by("about").textContent = parts.join(", ") + (shared ? " in " + shared : "");
  showKept();
}

// Wait until the first pictures are there, which should not wait for rows; but a slow one does not hold them up for long.
function firstScreen() {
  const images = [...document.querySelectorAll(".card img")].filter((image) => image.getBoundingClientRect().top < innerHeight);
  const loaded = images.map((image) => image.complete || new Promise((done) => { image.onload = image.onerror = done; }));
  return Promise.race([Promise.all(loaded), new Promise((done) => setTimeout(done, 2000))]);
}

// Show the first rows that the server sends, and sort again when all are there.
async function load() {
  const known = receive(), ask = (from) => fetch("rows/" + from).then((reply) => reply.json());
  const add = (some) => {
    addRows(some);
    survey();
    arrange();
  };
  add(await ask(0));
  await firstScreen();
  const rest = [];
  for (let there = rows.length; there < facts.count; there = rows.length + rest.length) {
    by("shown").textContent = `${there.toLocaleString("en")} of ${facts.count.toLocaleString("en")} images are loaded`;
    rest.push(...await ask(there));
  }
  if (rest.length) add(rest);
  await known;
  measures();
}

function begin() {
  for (const [name, text] of Object.entries(settings)) {
    const part = document.createElement("div"), term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = name + " ";
    value.textContent = text;
    part.append(term, value);
    by("run").append(part);
  }
  by("labels").append(...facts.labels.map((label) => new Option(label, label)));
  for (const id of ["q", "order", "from", "to"]) if (asked.has(id)) by(id).value = asked.get(id);
  for (const id of ["q", "from", "to"]) by(id).addEventListener("input", arrange);
  for (const id of ["section", "order"]) by(id).addEventListener("change", () => { asked.delete(id); arrange(); });
  addEventListener("scroll", draw, { passive: true });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth === width) draw(); else { width = innerWidth; arrange(); } });
  by("measures").addEventListener("toggle", draw);
  if (isServed) {
    load().catch(() => { by("shown").textContent = "zsclip review has ended; start it again"; });
    return;
  }
  addRows(read("rows"));
  openStorage();
  survey();
  measures();
  arrange();
}
begin();
