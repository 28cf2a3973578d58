// Parts of a page that change: [data-live] is loaded anew every few seconds while somebody looks at it.
"use strict";
for (const part of document.querySelectorAll("[data-live]")) {
  const every = Number(part.dataset.every || "3") * 1000;
  let wait = every, before = "";
  const again = () => setTimeout(look, wait);
  const look = async () => {
    if (document.hidden || part.contains(document.activeElement) && document.activeElement.matches("input")) return again();
    try {
      const answer = await fetch(part.dataset.live, { headers: { "X-Live": "1" }, redirect: "error" });
      if (answer.status === 401 || answer.status === 404) return location.reload();
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text();
      wait = every;
      part.removeAttribute("data-stale");
      if (text !== before) {
        const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
        part.innerHTML = before = text;
        if (focused) part.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
      }
    } catch {
      part.setAttribute("data-stale", "");
      wait = Math.min(wait * 2, 30000);
    }
    again();
  };
  again();
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
    const word = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = word; }, 1500);
  });
}
