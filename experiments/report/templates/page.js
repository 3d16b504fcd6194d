
// Figures: the label of a mark as a tooltip; a click in the key hides a line in all panels.
(() => {
  const tip = document.getElementById("tip"), labeled = "[role=graphics-symbol][aria-label]:not([aria-roledescription=axis])";
  for (const panels of document.querySelectorAll(".hero.panels")) {
    panels.addEventListener("pointermove", event => {
      const mark = event.target.closest(labeled);
      tip.hidden = !mark;
      if (!mark) return;
      tip.textContent = mark.getAttribute("aria-label");
      tip.style.left = Math.min(event.clientX + 12, innerWidth - 260) + "px"; tip.style.top = event.clientY + 14 + "px";
    });
    panels.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
  for (const button of document.querySelectorAll("button[data-line]")) button.addEventListener("click", () => {
    const off = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!off));
    for (const mark of document.querySelectorAll(`.hero ${labeled}`))
      if (mark.getAttribute("aria-label").startsWith(button.dataset.line + ", ")) mark.classList.toggle("gone", off);
  });
})();
// On paper nothing is folded, except the record.
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("section:not(#record) details")) one.open = true; });
