// What is said in another conversation than the one whose picture is shown is hidden: the last words of an answer that
// was left may come after the next picture.
(() => {
  const part = (place) => document.querySelector(`${place} [data-talk]`);
  new MutationObserver(() => {
    const [picture, said] = [part("#chat-picture"), part("#chat-said")];
    if (picture && said) said.style.display = picture.dataset.talk === said.dataset.talk ? "" : "none";
  }).observe(document, { childList: true, subtree: true });
})();
