// The keys of the tab "Label": they press its buttons. A key that comes again before the next question is there is not
// taken for an answer to it; the app refuses it as well.
(() => {
  const PATIENCE = 2000;
  let answered = null, when = 0;
  const press = (id) => document.getElementById(id)?.click();
  const shown = (id) => { const found = document.getElementById(id); return found && found.offsetParent !== null; };
  const question = () => document.querySelector("#label-board [data-question]")?.dataset.question;
  const once = (id, asked = question(), tries = 0) => {
    const waits = asked === answered && performance.now() - when < PATIENCE;
    if (!asked || asked !== question() || waits) return;
    if (!shown(id)) {  // buttons may come a moment after the question
      if (tries < 10) setTimeout(() => once(id, asked, tries + 1), 50);
      return;
    }
    [answered, when] = [question(), performance.now()];
    press(id);
  };
  const correct = (digit) => {
    press("label-fix");
    const choose = () => {
      const found = document.querySelector(`#label-which input[value="${digit}"]`);
      if (!found) return false;
      if (!found.checked) found.click();
      document.querySelector("#label-text textarea")?.focus();
      return true;
    };
    let tries = 0;
    const again = setInterval(() => { if (choose() || ++tries > 40) clearInterval(again); }, 50);
  };
  document.addEventListener("keydown", (event) => {
    if (!shown("label-board") || event.altKey || event.metaKey) return;
    if (event.target.closest?.("#label-text")) {
      if (event.key === "Escape") press("label-leave");
      if (event.key === "Enter" && event.ctrlKey) { event.preventDefault(); answered = null; press("label-save"); }
      return;
    }
    if (event.ctrlKey || event.target.closest?.("input:not([type=radio]), textarea, select, [contenteditable]")) return;
    const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1];
    if (digit && event.shiftKey) correct(digit);
    else if (digit) once(`label-choose-${digit}`);
    else if (event.key.toLowerCase() === "s") once("label-skip");
    else if (event.key.toLowerCase() === "u") { answered = null; press("label-undo"); }
    else if (event.key === "Escape") press("label-leave");
    else return;
    event.preventDefault();
  });
})();
