// What the person says that pictures show: kept in the browser and written as a file, or sent to `zsclip review`.
const corrected = new Map();  // by number of the row: the right label, or "" where only the answer is known to be wrong
const KEY = `zsclip ${facts.id} `;  // and the number of a row; a key for each, so that two tabs do not overwrite each other
const waiting = new Map();  // by number of the row: corrections that are not yet sent
const saved = new Map();  // by number of the row: what stands in the file of `zsclip review`, as far as is known here
let storage = null, isExported = true, failure = "", unreadable = "", made = 0, unsaved = 0, sending = Promise.resolve();

function openStorage() {
  try {  // a browser may forbid it; if it has no room, it still has what was kept before
    storage = localStorage;
  } catch {
    return;
  }
  const keys = Array.from({ length: storage?.length ?? 0 }, (_, place) => storage.key(place));
  for (const key of keys.filter((key) => key.startsWith(KEY))) take(Number(key.slice(KEY.length)), storage.getItem(key));
}

// Show a correction that was made, or taken back (null), here or in another tab.
function take(number, label) {
  if (!isServed && !(number < rows.length)) return;
  if (label === null) corrected.delete(number); else corrected.set(number, label);
  redraw(number);
  showEnlarged(number);
  showKept();
}

// Correct the label of a picture; null takes the correction back.
function correct(row, label) {
  const number = row[NUMBER];
  if (row[ERROR] !== null || label === (corrected.get(number) ?? null)) return;
  failure = "";
  isExported = false;
  made += 1;
  take(number, label);
  if (isServed) {
    waiting.set(number, (waiting.get(number) ?? 0) + 1);
    unsaved += 1;
    sending = sending.then(() => send(number, label)).catch((error) => {  // one after the other, in their order
      failure = `the correction of ${row[NAME]} was not saved: ${error.message}`;
      if (waiting.get(number)) showKept(); else take(number, saved.get(number) ?? null);
    }).finally(() => { unsaved -= 1; });
  } else {
    try {
      if (label === null) storage?.removeItem(KEY + number); else storage?.setItem(KEY + number, label);
    } catch {
      storage = null;
      showKept();
    }
  }
}

function noteSaved(number, label) {
  if (label === null) saved.delete(number); else saved.set(number, label);
}

async function send(number, label) {
  waiting.set(number, waiting.get(number) - 1);
  const reply = await fetch("corrections", {
    method: "POST", keepalive: true, headers: { "Content-Type": "application/json" }, body: JSON.stringify({ row: number, label }),
  }).catch(() => { throw new Error("zsclip review has ended"); });
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(answer.error ?? "zsclip review refused it");
  for (const each of Object.keys(answer).map(Number)) {  // all rows of this picture; but what is corrected next comes later
    noteSaved(each, label);
    if (!waiting.get(each) && (corrected.get(each) ?? null) !== label) take(each, label);
  }
}

// Ask for the corrections of other tabs, and of earlier days.
async function receive() {
  const before = made, reply = await fetch("corrections"), all = await reply.json();
  if (made !== before) return sending.then(receive);  // what was corrected meanwhile may be missing
  unreadable = reply.ok ? "" : all.error;
  if (unreadable) return showKept();
  saved.clear();
  for (const [number, label] of Object.entries(all)) noteSaved(Number(number), label);
  for (const number of [...corrected.keys()]) if (!(number in all)) take(number, null);
  for (const [number, label] of saved) if (corrected.get(number) !== label) take(number, label);
  showKept();
}

function showKept() {
  const number = corrected.size, many = counted(number, "correction");
  const where = isServed ? `in ${facts.file}` : storage ? "kept in this browser" : "will be lost when you close this page, unless you save them";
  const wrong = failure || unreadable;
  by("kept").hidden = !number && !wrong;
  by("kept").className = wrong ? "failed" : "";
  by("kept").textContent = wrong || `${many} ${where}`;
  by("export").hidden = isServed || !number;
  const option = by("section").querySelector(`[value="*${CORRECTED}"]`);
  if (option) option.textContent = `${CORRECTED} (${number})`;
}

// Texts of bytes: each character is one byte.
const bytesOf = (text) => Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
const unquoted = (link) => link.replace(/%([0-9a-f]{2})/gi, (_, digits) => String.fromCharCode(parseInt(digits, 16)));
const field = (text) => /[,"\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

// The name of a picture in a file that may be anywhere: as this page is a file itself, it knows where the pictures are.
function nameBytes(row) {
  if (row[LINK] === null || location.protocol !== "file:" || /^https?:/.test(row[LINK])) return bytesOf(row[NAME]);
  const url = new URL(row[LINK], location.href);
  return unquoted(url.pathname) + (url.hash && "#") + unquoted(url.hash.slice(1));
}

// A list that `zsclip learn`, `eval` and `train` read.
function correctionsFile() {
  const lines = [...corrected].sort(([a], [b]) => a - b).map(([number, label]) => `${field(nameBytes(rows[number]))},${field(bytesOf(label))}\n`);
  return Uint8Array.from("file_name,label\n" + lines.join(""), (byte) => byte.charCodeAt(0));
}

function exportCorrections() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([correctionsFile()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  isExported = true;
}

by("export").addEventListener("click", exportCorrections);
addEventListener("storage", (event) => {
  if (event.key?.startsWith(KEY) && event.key !== KEY) take(Number(event.key.slice(KEY.length)), event.newValue);
});
addEventListener("focus", () => isServed && sending.then(receive).catch(() => {}));
addEventListener("beforeunload", (event) => {
  if (isServed ? unsaved : !storage && corrected.size && !isExported) event.preventDefault();
});
