'use strict';
(function () {
  const data = JSON.parse(document.getElementById('curves').textContent);
  const figure = document.querySelector('figure');
  const svg = figure.querySelector('svg');
  const tip = document.createElement('div');
  tip.className = 'tip';
  tip.hidden = true;
  figure.append(tip);
  const make = (name, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const key of Object.keys(attributes)) element.setAttribute(key, attributes[key]);
    svg.append(element);
    return element;
  };
  const cursors = data.panels.map(p => make('line', { class: 'cursor', y1: p.y, y2: p.y + p.height, visibility: 'hidden' }));
  const marks = [];
  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - points[low - 1][0] < points[low][0] - x ? points[low - 1] : points[low];
  };
  const number = (value, percent) =>
    percent ? (100 * value).toPrecision(4) + ' %' : Number(value.toPrecision(5)).toLocaleString('en', { maximumSignificantDigits: 5 });
  const hide = () => {
    tip.hidden = true;
    cursors.forEach(line => line.setAttribute('visibility', 'hidden'));
    marks.splice(0).forEach(mark => mark.remove());
  };
  const show = event => {
    const box = svg.getBoundingClientRect();
    const scale = data.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    const panel = data.panels.find(p => x >= p.x && x <= p.x + p.width && y >= p.y - 20 && y <= p.y + p.height + 20);
    hide();
    if (!panel) return;
    const asked = (x - panel.x) / panel.width * data.across;
    const found = data.panels.map(p => p.curves.filter(c => c.points.length).map(c => ({ run: c.run, at: nearest(c.points, asked), points: c.points, held: c.held })));
    const here = found[data.panels.indexOf(panel)];
    if (!here.length) return;
    const place = here[0].at[0];
    data.panels.forEach((p, n) => {
      const across = p.x + place / data.across * p.width;
      cursors[n].setAttribute('x1', across);
      cursors[n].setAttribute('x2', across);
      cursors[n].setAttribute('visibility', 'visible');
      for (const one of found[n]) {
        const share = p.log ? Math.log(one.at[1] / p.low) / Math.log(p.high / p.low) : (one.at[1] - p.low) / (p.high - p.low);
        marks.push(make('circle', { class: 'mark', r: 2.5, cx: p.x + one.at[0] / data.across * p.width, cy: p.y + p.height * (1 - share) }));
      }
    });
    const lines = [panel.title, data.label + ': ' + number(place * data.times, false)];
    for (const one of here) {
      lines.push((here.length > 1 ? data.runs[one.run] + ': ' : '') + number(one.at[1], panel.percent));
      // A score stands where it was taken: at the recorded step nearest to it, or closer than one can point.
      const near = score => Math.abs(score[0] - place) / data.across * panel.width < 2;
      const scores = one.held.filter(score => near(score) || nearest(one.points, score[0])[0] === one.at[0]);
      if (!scores.length) continue;
      const held = nearest(scores, one.at[0]);
      const elsewhere = held[0] === place ? '' : ' (' + data.label + ': ' + number(held[0] * data.times, false) + ')';
      lines.push(data.held + elsewhere + ': ' + number(held[1], panel.percent));
    }
    tip.textContent = lines.join('\n');
    tip.hidden = false;
    const left = (event.clientX - box.left) + 14;
    tip.style.left = Math.max(0, left + tip.offsetWidth > box.width ? left - tip.offsetWidth - 28 : left) + 'px';
    tip.style.top = (event.clientY - box.top) + 14 + 'px';
  };
  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', hide);
})();
