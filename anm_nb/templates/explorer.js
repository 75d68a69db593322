// Runs when the page loads a picture of an explorer (`this`), and again later, since controls may load after it. Labels
// sliders and players for screen readers, exposes slider values to them, and stops JupyterLab from taking a list's arrow
// keys. The line below the picture shows the tooltip of the last bar that was pointed at or clicked.
const mend = () => {
  const all = kind => this.closest('.anm-explorer')?.querySelectorAll(kind) ?? [];
  for (const list of all('select')) list.dataset.lmSuppressShortcuts = true;
  for (const slider of all('.widget-slider')) {
    const label = slider.querySelector('label').textContent, value = slider.querySelector('.widget-readout');
    const handle = slider.querySelector('[role=slider]'), player = slider.nextElementSibling;
    handle.ariaLabel = label;
    handle.ariaValueText = value.textContent;
    value.contentEditable = false;
    if (!player?.matches('.widget-play')) continue;
    const [play, stop] = player.querySelectorAll('button');
    play.ariaLabel = `Play or pause: ${label}`;
    stop.ariaLabel = `Back to the start: ${label}`;
  }
};
[0, 100, 1000, 5000].forEach(wait => setTimeout(mend, wait));
const sheet = this.parentElement;
sheet.onpointerover = sheet.onclick = ({target}) => { if (target.title) sheet.nextElementSibling.textContent = target.title; };
