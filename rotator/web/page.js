"use strict";
// The page works without this. It filters while you type, and fetches the page again every 15 seconds.
(() => {
  const form = document.getElementById("filter");
  const live = document.getElementById("live");
  let typing = 0, asked = 0;

  const address = () => {
    const given = [...new FormData(form)].filter(([name, value]) => value && !(name === "sort" && value === "state"));
    return "/?" + new URLSearchParams(given);
  };

  const put = (id, from) => {
    const old = document.getElementById(id), fresh = from.getElementById(id);
    if (old.textContent !== fresh.textContent) old.replaceChildren(...fresh.childNodes);
  };

  // What is open and what has the focus stays so, told apart by its id, by where it leads, or by what it opens.
  const place = (element) => element.id || element.href || element.closest("details").id;

  const show = async () => {
    const number = ++asked;
    let fresh;
    try {
      const answer = await fetch(address(), { credentials: "same-origin" });
      if (!answer.ok) throw new Error(String(answer.status));
      fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      document.body.classList.add("lost");
      return;
    }
    if (number !== asked || !fresh.getElementById("live")) return;
    document.body.classList.remove("lost");
    document.title = fresh.title;
    put("as-of", fresh);
    put("count", fresh);
    const open = new Set([...live.querySelectorAll("details[open]")].map(place));
    const focused = live.contains(document.activeElement) ? place(document.activeElement) : null;
    live.replaceChildren(...fresh.getElementById("live").childNodes);
    for (const one of live.querySelectorAll("details")) one.open = open.has(place(one));
    if (focused)
      [...live.querySelectorAll("a, summary")].find((one) => place(one) === focused)?.focus({ preventScroll: true });
  };

  const filter = () => {
    history.replaceState(null, "", address());
    show();
  };

  form.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(filter, 200);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    filter();
  });
  setInterval(() => document.hidden || show(), 15000);
  document.addEventListener("visibilitychange", () => document.hidden || show());
})();
