// Copies a text at a button's press, and shows anew what goes on by itself; the pages do without.
"use strict";

const EVERY = 5000; // ms
const MOST = 240; // turns: somebody who has left the page open is signed out in the end

const copiers = document.querySelectorAll("[data-copy]");
const said = document.createElement("p"); // what a button shows, for those who hear the page (WCAG 2.2, 4.1.3)
said.className = "skip";
said.setAttribute("role", "status");
if (copiers.length) document.querySelector("main").append(said);
for (const button of copiers) {
  const field = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.addEventListener("click", async () => {
    let copied = true;
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      field.select();
      copied = document.execCommand("copy");
    }
    for (const other of copiers) other.textContent = "Copy";
    button.textContent = copied ? "Copied" : "Marked: copy it by Ctrl+C";
    const what = document.getElementById(button.getAttribute("aria-describedby"));
    said.textContent = `${button.textContent} ${what ? what.textContent : ""}`;
  });
}

for (const part of document.querySelectorAll("[data-live]")) {
  let turns = 0;
  const timer = setInterval(async () => {
    if (++turns > MOST) return clearInterval(timer);
    const answer = await fetch(part.dataset.live).catch(() => null);
    const text = answer && answer.ok && new URL(answer.url).pathname === part.dataset.live ? await answer.text() : "";
    if (!text || text.startsWith("<!doctype")) return;
    const told = new DOMParser().parseFromString(text, "text/html").body;
    if (told.textContent !== part.textContent) part.replaceChildren(...told.children);
  }, EVERY);
}

const waiting = document.querySelector("[data-reload]");
if (waiting) {
  let turns = 0;
  const place = waiting.dataset.reload;
  const typing = () => [...document.querySelectorAll("input:not([type=hidden])")].some(field => field.value);
  const look = async () => {
    if (!typing() && !document.hidden) {
      const answer = await fetch(place).catch(() => null);
      const text = answer && answer.ok ? await answer.text() : "";
      // While nothing has changed, nobody is interrupted who reads, or has it read to them.
      const now = new DOMParser().parseFromString(text, "text/html").querySelector("[data-reload]");
      // Somebody may have begun to type while the answer came.
      if (text && !typing() && now?.textContent !== waiting.textContent) return location.replace(place);
    }
    if (++turns < MOST) setTimeout(look, EVERY);
  };
  setTimeout(look, EVERY);
}
