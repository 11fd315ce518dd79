// Asks for the page again every few seconds and replaces what changed; nothing flickers, the place on the page stays.
"use strict";

const EVERY_MS = 5000;
const PARTS = ["live", "counts"];

async function refresh() {
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(EVERY_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of PARTS) {
      const [old, now] = [document.getElementById(id), fresh.getElementById(id)];
      if (old && now && old.innerHTML !== now.innerHTML) old.replaceWith(now);
    }
    const [old, now] = [document.querySelector(".when"), fresh.querySelector(".when")];
    if (old && now) old.replaceWith(now);
    document.getElementById("stale").hidden = true;
  } catch {
    document.getElementById("stale").hidden = false;
  }
}

setInterval(() => {
  const reading = String(document.getSelection()) !== "";
  if (!document.hidden && !reading) refresh();
}, EVERY_MS);
