// Shows times in the browser's zone and keeps a page fresh: when Tocsin says that something changed, the page is read
// again and what differs is written into the present one, so that focus, selection, scrolling, half-filled forms and
// opened details stay. Without this script every page still works.
"use strict";

const SLOWEST_MS = 20000; // also what only time changes: progress, ages
const SOONEST_MS = 1500;
const two = (number) => String(number).padStart(2, "0");

function localise(root) {
  const now = new Date();
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (isNaN(at)) continue;
    element.title = at.toISOString().slice(0, 19).replace("T", " ") + " UTC";
    if (element.dataset.ago) continue;
    const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    element.textContent = at.toDateString() === now.toDateString() ? clock : `${day} ${clock}`;
  }
  for (const element of root.querySelectorAll("[data-zone]")) element.textContent = "(your time)";
  for (const input of root.querySelectorAll("[data-remember]")) {
    if (!input.value) input.value = localStorage.getItem(input.dataset.remember) || "";
  }
}

function ago(seconds) {
  const past = Math.abs(seconds);
  const parts = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const first = parts.findIndex(([, size]) => past >= size);
  if (first < 0) return "now";
  const [[unit, size], next] = [parts[first], parts[first + 1]];
  let text = `${Math.floor(past / size)}${unit}`;
  if (next && first < 2) text += ` ${Math.floor((past % size) / next[1])}${next[0]}`;
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

function age() {
  for (const element of document.querySelectorAll("[data-ago]")) {
    element.textContent = ago((Date.now() - new Date(element.dataset.ago)) / 1000);
  }
}

// --- morphing -----------------------------------------------------------------------------------------------------------

// Not ``node.id``: of a form with a field ``id`` that is the field.
const keyOf = (node) => (node.nodeType === 1 && (node.getAttribute("id") || node.dataset.key)) || null;
const typed = (node) => (node === document.activeElement || node.value !== node.defaultValue || node.checked !== node.defaultChecked);

function alike(old, fresh) {
  return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && keyOf(old) === keyOf(fresh);
}

function morph(old, fresh) {
  if (old.nodeType !== 1) {
    if (old.data !== fresh.data && !getSelection().containsNode(old, true)) old.data = fresh.data;
    return;
  }
  if (["INPUT", "SELECT", "TEXTAREA"].includes(old.nodeName) && typed(old)) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !(name === "open" && old.nodeName === "DETAILS")) old.setAttribute(name, value);
  }
  const keyed = new Map([...old.childNodes].filter(keyOf).map((node) => [keyOf(node), node]));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = keyOf(wanted);
    let match = key ? keyed.get(key) : place;
    if (!match || !alike(match, wanted)) {
      old.insertBefore(wanted, place);
      continue;
    }
    if (match === place) place = place.nextSibling;
    else old.insertBefore(match, place); // a row that moved
    morph(match, wanted);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

// --- staying fresh ------------------------------------------------------------------------------------------------------

let asked = 0; // when the page was read last
let waiting = null;
let failedAt = null;

async function refresh() {
  waiting = null;
  if (document.hidden || document.body.dataset.still !== undefined) return;
  asked = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(15000) });
    if (answer.redirected || answer.status === 401) return location.reload(); // logged out meanwhile
    if (answer.status >= 400) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    localise(fresh);
    for (const selector of ["title", "link[rel=icon]", "nav", "main", "footer"]) {
      const [old, now] = [document.querySelector(selector), fresh.querySelector(selector)];
      if (old && now) morph(old, document.adoptNode(now));
    }
    age();
    failedAt = null;
  } catch {
    failedAt ||= new Date();
  }
  const stale = document.getElementById("stale");
  stale.hidden = failedAt === null;
  if (failedAt) stale.querySelector("time").textContent = failedAt.toLocaleTimeString();
}

function soon() {
  waiting ||= setTimeout(refresh, Math.max(0, asked + SOONEST_MS - Date.now()));
}

let source = null;
function listen() {
  source?.close();
  if (document.hidden) return; // a browser allows six of them, for all its tabs
  source = new EventSource(document.body.dataset.live);
  source.addEventListener("change", soon);
  source.onopen = () => failedAt && soon();
  source.onerror = () => {
    soon();
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 15000); // too many streams, or logged out
  };
}

// --- a page is opened ---------------------------------------------------------------------------------------------------

localise(document);
age();
asked = Date.now();
const here = new URL(location.href);
if (here.searchParams.has("done")) {
  here.searchParams.delete("done"); // it was shown; a reload does not say it again
  history.replaceState(null, "", here);
}
let typing = null;
document.addEventListener("input", ({ target }) => { // what a silence covers, while it is written
  const form = target.form;
  if (target.dataset.local) form.elements[target.dataset.local].value = target.value && new Date(target.value).toISOString();
  if (!form?.dataset.preview) return;
  clearTimeout(typing);
  typing = setTimeout(async () => {
    const fields = new URLSearchParams(new FormData(form));
    fields.delete("csrf");
    const answer = await fetch(`?${fields}`, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    localise(fresh);
    morph(document.getElementById(form.dataset.preview), document.adoptNode(fresh.getElementById(form.dataset.preview)));
  }, 400);
});
document.addEventListener("change", ({ target }) => {
  if (target.dataset.remember) localStorage.setItem(target.dataset.remember, target.value);
  if (target.dataset.submit !== undefined) target.form.requestSubmit();
  if (target.dataset.all !== undefined) {
    for (const box of target.form.querySelectorAll(`input[name="${target.dataset.all}"]`)) box.checked = target.checked;
  }
});
document.addEventListener("submit", ({ target }) => { // short addresses: fields that are empty say nothing
  if (target.method === "get") {
    for (const field of target.elements) if (field.name && !field.value) field.disabled = true;
  }
});
addEventListener("pageshow", () => { // and back again
  for (const field of document.querySelectorAll(":disabled")) field.disabled = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.nodeName)) {
    event.preventDefault();
    document.querySelector(".search input").focus();
  }
});
document.addEventListener("visibilitychange", () => {
  listen();
  if (!document.hidden) soon();
});
setInterval(age, 5000);
setInterval(() => Date.now() - asked > SLOWEST_MS && soon(), 2000);
if (location.hash === "#ack") document.querySelector("#ack button")?.focus();
listen();
