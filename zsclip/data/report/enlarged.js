// One picture on the whole screen, with its candidates; and the keyboard.
let enlarged = null;  // a place in `placed`

// The labels that digits stand for: the candidates, and all others if they are few.
function choicesOf(row) {
  const offered = [...row[CANDIDATES].map(([label]) => label), ...row[LABELS]];
  return [...new Set(facts.labels.length <= 9 ? [...offered, ...facts.labels] : offered)].slice(0, 9);
}

// Take the nth of these labels for the right one; a second time takes that back.
function choose(row, place) {
  const label = choicesOf(row)[place];
  if (label !== undefined) correct(row, corrected.get(row[NUMBER]) === label ? null : label);
}

const markWrong = (row) => correct(row, corrected.get(row[NUMBER]) === "" ? null : "");

function enlarge(place) {
  enlarged = place;
  const row = placed[place].row, small = row[ERROR] === null ? thumbnailOf(row) : null, image = by("large");
  by("another").value = "";
  by("where").textContent = row[NAME];
  if (linkOf(row) === null) by("where").removeAttribute("href"); else by("where").href = linkOf(row);
  if (small === null) image.removeAttribute("src"); else image.src = small;
  // The whole picture takes its place once it is there. A link into a container leads to no picture.
  if (row[ERROR] === null && linkOf(row) !== null && !linkOf(row).includes("#")) {
    const whole = new Image();
    whole.addEventListener("load", () => { if (placed[enlarged]?.row === row) image.src = whole.src; });
    whole.src = linkOf(row);
  }
  showEnlarged(row[NUMBER]);
  if (!by("enlarged").open) by("enlarged").showModal();
  by("enlarged").focus();
}

// Show what is known of the picture with this number, if it is the enlarged one.
function showEnlarged(number) {
  const row = placed[enlarged]?.row;
  if (row?.[NUMBER] !== number) return;
  const right = corrected.get(number), isRead = row[ERROR] === null;
  answerOf(row, by("answer"));
  by("details").textContent = [row[MESSAGE], row[TRUTH] === null ? null : "truth: " + row[TRUTH], row[WINNER] === null ? null : row[WINNER] + " won"].filter(Boolean).join("; ");
  by("choices").replaceChildren(...(isRead ? choicesOf(row) : []).map((label, place) => {
    const button = document.createElement("button"), digit = document.createElement("small"), score = document.createElement("small");
    digit.textContent = place + 1;
    score.textContent = fixed(row[CANDIDATES].find(([each]) => each === label)?.[1] ?? null);
    button.append(digit, line("", label), score);
    button.type = "button";
    button.title = label;
    button.setAttribute("aria-pressed", right === label);
    button.addEventListener("click", () => choose(row, place));
    return button;
  }));
  for (const id of ["another", "wrong"]) by(id).disabled = !isRead;
  by("take-back").disabled = right === undefined;
}

// The card that is so many cards away, without the heads between.
function placeAt(place, step) {
  let next = Math.min(place + step, placed.length - 1);
  while (placed[next] && !placed[next].row) next += Math.sign(step);
  return placed[next] ? next : null;
}

function focusCard(place) {
  const wanted = placed[place].top + by("pictures").offsetTop;
  if (wanted < scrollY + 140) scrollTo(0, wanted - 160);
  if (wanted + cardHeight > scrollY + innerHeight) scrollTo(0, wanted + cardHeight - innerHeight + 20);
  draw();
  drawn.get(place)?.focus();
}

// Find the picture again after the cards were arranged anew; close it if it is no longer among them.
function findAgain(row) {
  enlarged = placed.findIndex((each) => each.row === row);
  if (enlarged < 0) leave();
}

// Close the picture, and go to its card.
function leave() {
  const place = enlarged;
  enlarged = null;
  by("enlarged").close();
  by("large").removeAttribute("src");
  if (placed[place]) focusCard(place);
}

function move(step) {
  const next = placeAt(enlarged, step);
  if (next !== null) enlarge(next);
}

by("pictures").addEventListener("click", (event) => {
  const place = event.target.closest("[data-place]")?.dataset.place;
  if (place === undefined || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  enlarge(Number(place));
});
by("enlarged").addEventListener("cancel", (event) => { event.preventDefault(); leave(); });
by("enlarged").addEventListener("close", () => { if (enlarged !== null && !by("enlarged").open) leave(); });
by("wrong").addEventListener("click", () => markWrong(placed[enlarged].row));
by("take-back").addEventListener("click", () => correct(placed[enlarged].row, null));
by("previous").addEventListener("click", () => move(-1));
by("next").addEventListener("click", () => move(1));
by("close").addEventListener("click", leave);
by("another").addEventListener("keydown", (event) => {
  const label = by("another").value.trim();
  if (event.key !== "Enter" || event.isComposing || !label) return;
  correct(placed[enlarged].row, label);
  by("another").value = "";
  by("enlarged").focus();
});

addEventListener("keydown", (event) => {
  const target = document.activeElement, isText = target?.matches("#q, #another"), isOpen = enlarged !== null;
  if (event.key === "/" && !isText && !isOpen) { event.preventDefault(); by("q").focus(); return; }
  if (event.key === "Escape" && target === by("q")) { by("q").value = ""; arrange(); return; }
  if (event.key === "Escape" && isOpen) { event.preventDefault(); leave(); return; }
  if (event.altKey || event.ctrlKey || event.metaKey || target?.matches("input, select")) return;
  const place = isOpen ? enlarged : Number(target?.dataset?.place ?? NaN);
  if (!placed[place]?.row) return;
  const row = placed[place].row, digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1] ?? /^[1-9]$/.exec(event.key)?.[0];
  const takes = { x: () => markWrong(row), 0: () => correct(row, null), Backspace: () => correct(row, null), Delete: () => correct(row, null) };
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  const correction = digit ? () => choose(row, digit - 1) : takes[event.key];
  if (correction) { if (!event.repeat) correction(); }  // a key held down would choose and take back by turns
  else if (event.key === "Enter" && !isOpen) enlarge(place);
  else if (!step || event.shiftKey) return;
  else if (isOpen) move(step);
  else if (placeAt(place, step) === null) return;
  else focusCard(placeAt(place, step));
  event.preventDefault();
});
