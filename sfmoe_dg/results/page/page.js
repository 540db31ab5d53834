for (const nav of document.querySelectorAll("nav")) {
  const links = [...nav.querySelectorAll("a")];
  const show = chosen => links.forEach((link, i) => {
    link.setAttribute("aria-current", String(i === chosen));
    for (const part of document.querySelectorAll(link.dataset.shows)) part.hidden = i !== chosen;
  });
  links.forEach((link, i) => link.addEventListener("click", event => { event.preventDefault(); show(i); }));
  show(0);
}
