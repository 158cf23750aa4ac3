"""What a page owes to those who see little, hear it read, or have no mouse (WCAG 2.2 AA); judged in the browser."""

from __future__ import annotations

from tests.chromium import Chromium

_JUDGE = r"""
(() => {
  const faults = [], shown = e => e.checkVisibility({visibilityProperty: true});
  const name = e => `<${e.localName} ${e.id || e.name || e.className}> ${(e.textContent || "").trim().slice(0, 30)}`;
  if (document.documentElement.lang !== "en") faults.push("the page has no language");
  if (!document.title.trim()) faults.push("the page has no title");
  for (const one of ["main", "header"])
    if (document.querySelectorAll(`body > ${one}`).length !== 1) faults.push(`there is not one ${one}`);
  let level = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4")) {
    const next = Number(e.localName[1]);
    if (next > level + 1 || (next === 1 && level)) faults.push(`a heading out of order: ${name(e)}`);
    level = next;
  }
  if (!level) faults.push("there is no heading");
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`an id is there twice: ${id}`);
  for (const e of document.querySelectorAll("input:not([type=hidden]), textarea, select"))
    if (![...e.labels].some(l => l.textContent.trim()) && !e.ariaLabel) faults.push(`no label: ${name(e)}`);
  for (const e of document.querySelectorAll("button, a[href]"))
    if (!e.textContent.trim() && !e.ariaLabel) faults.push(`no text: ${name(e)}`);
  for (const attribute of ["aria-describedby", "aria-labelledby"])
    for (const e of document.querySelectorAll(`[${attribute}]`))
      for (const id of e.getAttribute(attribute).split(" "))
        if (!document.getElementById(id)) faults.push(`${name(e)} is described by what is not there: ${id}`);
  const parts = text => text.match(/[\d.]+/g).map(Number);
  const linear = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(c => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  for (const e of document.querySelectorAll("body *")) {
    const speaks = e.matches("input, textarea") || [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!speaks || !shown(e)) continue;
    const both = [light(parts(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
    const ratio = (both[0] + .05) / (both[1] + .05);
    if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${name(e)}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) faults.push("it is wider than the window");
  return faults;
})()
"""

_FOCUS = """
(() => {
  const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
  return [`${e.localName} ${e.id || e.name || e.textContent.trim()}`,
    s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && box.right > 0 && box.bottom > 0];
})()
"""


def faults(browser: Chromium) -> list[str]:
    """Give what is wrong with the page that is shown: language, landmarks, headings, names, contrast, width."""
    return [str(fault) for fault in browser.look(_JUDGE)]


def focus(browser: Chromium) -> tuple[str, bool]:
    """Give what has the focus, and whether one sees it there."""
    what, visible = browser.look(_FOCUS)
    return str(what), bool(visible)
