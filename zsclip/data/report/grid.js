// The rows, which of them are shown, and where their cards stand.
// A row: name, link, labels, score or null, error or null, message or null, truth or null, thumbnail or null, candidates
// with their scores, the word that won or null. A picture has several labels where each label is scored by itself. Its
// number, the place in `rows`, is added here.
const [NAME, LINK, LABELS, SCORE, ERROR, MESSAGE, TRUTH, THUMB, CANDIDATES, WINNER, NUMBER] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const by = (id) => document.getElementById(id);
const read = (id) => JSON.parse(by(id).textContent);
const facts = read("facts"), settings = read("settings"), rows = [];
const isServed = facts.count !== undefined;  // by `zsclip review`, which is asked for rows and pictures
const UNKNOWN = "unknown", FAILED = "failed", MISTAKES = "mistakes", CORRECTED = "corrected";
const isWrong = (row) => row[TRUTH] !== null && row[LABELS].length > 0 && !row[LABELS].includes(row[TRUTH]);
// The keys of the sections that a row stands in: a label with "=" before it, or one of the words above with "*".
const sectionsOf = (row) => row[ERROR] !== null ? ["*" + FAILED] : row[LABELS].length ? row[LABELS].map((label) => "=" + label) : ["*" + UNKNOWN];
const titleOf = (key) => key.slice(1);
const special = (key) => ["*" + UNKNOWN, "*" + FAILED].indexOf(key);  // these come last
const inOrder = (a, b) => special(a) - special(b) || (a < b ? -1 : 1);
const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

const CARD_WIDTH = 150, LINE_HEIGHT = 17, GAP = 10, HEAD = 54;
const folderOf = (row) => row[NAME].slice(0, row[NAME].lastIndexOf("/") + 1);
let shared = null;  // the folder that all pictures are in is shown once; each card shows the rest of its own
let hasFolders = false, lines = 1, cardHeight = 0;
let placed = [], height = 0, columns = 1;  // placed: {line, top, left, width} and key, count of heads, or row of cards

function addRows(some) {
  for (const row of some) {
    row[NUMBER] = rows.length;
    rows.push(row);
    const folder = folderOf(row);
    shared ??= folder;
    if (folder !== shared) hasFolders = true;
    while (!folder.startsWith(shared)) shared = shared.slice(0, shared.slice(0, -1).lastIndexOf("/") + 1);
    lines = Math.max(lines, Math.max(row[CANDIDATES].length, 1) + (isWrong(row) || (row[TRUTH] !== null && !row[LABELS].length)) + (row[WINNER] !== null));
  }
  cardHeight = 180 + LINE_HEIGHT * (1 + hasFolders + lines);
}

const fixed = (score) => score === null ? "" : score.toFixed(3);

// The small lines of a card, above its name.
function detailsOf(row) {
  if (row[ERROR] !== null) return [];
  const [best, ...others] = row[CANDIDATES].map(([label, score]) => `${fixed(score)} ${label}`.trim());
  const truth = row[TRUTH] === null || row[LABELS].includes(row[TRUTH]) ? [] : ["truth: " + row[TRUTH]];
  if (!row[LABELS].length) return [(best ?? fixed(row[SCORE]) + " ") + "?", ...(row[WINNER] === null ? [] : [row[WINNER] + " won"]), ...truth];
  return [row[LABELS].length > 1 ? best : fixed(row[CANDIDATES][0]?.[1] ?? row[SCORE]), ...truth, ...others];
}

function state() {
  const [from, to] = ["from", "to"].map((id) => Number(by(id).value));
  return { q: by("q").value.trim().toLowerCase(), section: by("section").value, order: by("order").value, from, to };
}

function chosen({ q, section, from, to }) {
  const isIn = {
    "": () => true, ["*" + MISTAKES]: isWrong, ["*" + CORRECTED]: (row) => corrected.has(row[NUMBER]),
  }[section] ?? ((row) => sectionsOf(row).includes(section));
  const least = from > 0 ? from : -Infinity, most = to < 1 ? to : Infinity;  // cosines may be negative
  return rows.filter((row) =>
    (row[SCORE] === null || (row[SCORE] >= least && row[SCORE] <= most)) && isIn(row) &&
    (q === "" || [row[NAME], ...row[LABELS], row[TRUTH], row[ERROR], row[MESSAGE], row[WINNER], corrected.get(row[NUMBER])].some((text) => text?.toLowerCase().includes(q))));
}

const ORDERS = {
  sure: (a, b) => (b[SCORE] ?? -1) - (a[SCORE] ?? -1),
  unsure: (a, b) => (a[SCORE] ?? 2) - (b[SCORE] ?? 2),
  name: (a, b) => a[NAME] < b[NAME] ? -1 : a[NAME] > b[NAME] ? 1 : 0,
};

// Only the order by label has a section for each; in the others, sections would come before the order.
function sectioned(found, { section, order }) {
  if (order !== "label") return found.length ? [["", found.sort(ORDERS[order])]] : [];
  const sections = new Map();
  for (const row of found) for (const key of section ? [section] : sectionsOf(row)) {
    if (!sections.has(key)) sections.set(key, []);
    sections.get(key).push(row);
  }
  const scoreIn = (row, key) => row[CANDIDATES].find(([label]) => "=" + label === key)?.[1] ?? row[SCORE] ?? -1;
  const sorted = (its, key) => its.map((row) => [scoreIn(row, key), row]).sort(([a], [b]) => b - a).map(([, row]) => row);
  return [...sections].sort(([a], [b]) => inOrder(a, b)).map(([key, its]) => [key, sorted(its, key)]);
}

function arrange() {
  const wanted = state(), found = chosen(wanted), width = by("pictures").clientWidth, large = placed[enlarged]?.row;
  columns = Math.max(2, Math.floor((width + GAP) / (CARD_WIDTH + GAP)));
  const step = (width + GAP) / columns, down = cardHeight + GAP;
  placed = [];
  height = 0;
  let taken = 0, tallest = 0;  // small sections stand side by side: columns taken, and the height of the tallest
  for (const [key, its] of sectioned(found, wanted)) {
    const across = Math.min(its.length, columns), head = key ? HEAD : 0;
    if (taken + across > columns) {
      height += tallest;
      taken = tallest = 0;
    }
    const left = taken * step;
    if (key) placed.push({ line: height, top: height, left, width: across * step - GAP, key, count: its.length });
    its.forEach((row, i) => {
      const line = height + Math.floor(i / columns) * down;
      placed.push({ line, top: line + head, left: left + (i % columns) * step, width: step - GAP, row });
    });
    tallest = Math.max(tallest, head + Math.ceil(its.length / columns) * down);
    taken += across;
  }
  height += tallest;
  by("pictures").style.height = height + 40 + "px";
  for (const id of ["from", "to"]) by(id + "-value").textContent = wanted[id].toFixed(2);
  by("shown").textContent = `${found.length.toLocaleString("en")} of ${(facts.count ?? rows.length).toLocaleString("en")} images`;
  by("none").hidden = found.length > 0;
  for (const place of [...drawn.keys()]) remove(place);
  draw();
  if (large) findAgain(large);
  const usual = { q: "", section: "", order: "label", from: 0, to: 1 };
  history.replaceState(null, "", "#" + new URLSearchParams(Object.entries(wanted).filter(([name, value]) => value !== usual[name])));
}

const drawn = new Map();  // by place in `placed`

function remove(place) {
  const element = drawn.get(place);
  if (isServed) element.querySelector("img")?.removeAttribute("src");  // which is no longer asked for
  element.remove();
  drawn.delete(place);
}

function draw() {
  const top = scrollY - by("pictures").offsetTop - innerHeight, bottom = top + 3 * innerHeight;
  const focused = document.activeElement?.dataset?.place;
  for (const place of [...drawn.keys()]) {
    if ((placed[place].line + HEAD + cardHeight < top || placed[place].line > bottom) && String(place) !== focused) remove(place);
  }
  let low = 0, high = placed.length;  // lines only grow
  while (low < high) { const middle = (low + high) >> 1; if (placed[middle].line + HEAD + cardHeight < top) low = middle + 1; else high = middle; }
  let before = null;
  for (let place = low; place < placed.length && placed[place].line <= bottom; place++) {
    if (!drawn.has(place)) {
      const element = placed[place].row ? card(placed[place], place) : head(placed[place]);
      // In the order of the page, for the keyboard and for those who listen to it.
      if (before) before.after(element); else by("pictures").prepend(element);
      drawn.set(place, element);
    }
    before = drawn.get(place);
  }
}

// Draw the cards of a picture again.
function redraw(number) {
  for (const [place, element] of [...drawn]) {
    if (placed[place].row?.[NUMBER] !== number) continue;
    const again = card(placed[place], place), isFocused = document.activeElement === element;
    element.replaceWith(again);
    drawn.set(place, again);
    if (isFocused) again.focus();
  }
}

function head({ top, left, width, key, count }) {
  const element = document.createElement("h2");
  element.textContent = titleOf(key) + " ";
  const small = document.createElement("small");
  small.textContent = count.toLocaleString("en");
  element.append(small);
  element.title = titleOf(key);
  element.style.cssText = `top:${top}px;left:${left}px;width:${width}px`;
  return element;
}

function line(className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

const thumbnailOf = (row) => isServed ? "thumbnail/" + row[NUMBER] : row[THUMB] === null ? null : "data:image/webp;base64," + row[THUMB];
const linkOf = (row) => isServed ? "picture/" + row[NUMBER] : row[LINK];

// What the answer was, and what it should be.
function answerOf(row, element) {
  const label = corrected.get(row[NUMBER]), answer = row[ERROR] ?? (row[LABELS].join(", ") || UNKNOWN);
  const struck = document.createElement("s"), right = document.createElement("b");
  struck.textContent = answer;
  right.textContent = label;
  element.className = "answer" + (label !== undefined ? "" : isWrong(row) ? " wrong" : "");
  if (label === undefined) element.textContent = answer;
  else if (row[LABELS].length === 1 && label === row[LABELS][0]) element.replaceChildren("✓ ", right);
  else element.replaceChildren(struck, " ", label ? right : "✗");
  return element;
}

function card({ top, left, width, row }, place) {
  const element = document.createElement("a"), link = linkOf(row), thumbnail = row[ERROR] === null ? thumbnailOf(row) : null;
  element.className = "card";
  if (link === null) element.tabIndex = 0;
  else Object.assign(element, { href: link, target: "_blank", rel: "noopener" });
  // On one line each, what may be cut on the card.
  element.title = [row[NAME], row[MESSAGE], row[LABELS].join(", "), row[TRUTH] === null ? "" : "truth: " + row[TRUTH]].filter(Boolean).join("\n");
  element.dataset.place = place;
  element.style.cssText = `top:${top}px;left:${left}px;width:${width}px;height:${cardHeight}px`;
  const none = () => row[ERROR] === null ? line("none", "no thumbnail") : line("none why", row[MESSAGE]);
  if (thumbnail === null) {
    element.append(none());
  } else {
    const image = document.createElement("img");
    image.src = thumbnail;
    image.alt = "";
    image.addEventListener("error", () => image.hasAttribute("src") && image.replaceWith(none()));
    element.append(image);
  }
  element.append(answerOf(row, document.createElement("span")));
  if (row[ERROR] === null) {
    const bar = line("bar", ""), filled = document.createElement("i");
    filled.style.width = 100 * (row[SCORE] ?? 0) + "%";
    bar.append(filled);
    element.append(bar, ...detailsOf(row).map((text) => line("detail", text)));
  }
  // The mark keeps the text in its order, although it is cut at its left end.
  if (folderOf(row) !== shared) element.append(line("name folder", "\u200e" + folderOf(row).slice(shared.length, -1)));
  element.append(line("name", row[NAME].split("/").pop()));
  return element;
}
