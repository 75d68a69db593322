// Runs in the page with each picture of an explorer (`this`), several times, since controls may come after it. It names
// sliders and players for screen readers, has a slider tell its value, and keeps a list's arrow keys from JupyterLab;
// the line below the picture tells of the bar that is pointed at or clicked on.
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
