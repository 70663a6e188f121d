// Draws previews of deploy/grafana/webhookd.json with the series of a running
// Prometheus, by uPlot in a headless Chromium. It is not Grafana: it shows that
// the queries give something worth looking at, and roughly how it looks.
//
//   node draw.mjs http://127.0.0.1:9090 [MINUTES] [SCRAPE-SECONDS]   writes docs/pictures/*.png
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const [prometheus = 'http://127.0.0.1:9090', minutes = '30', scrape = '5'] = process.argv.slice(2);
const here = fileURLToPath(new URL('.', import.meta.url));
const board = JSON.parse(readFileSync(`${here}../../deploy/grafana/webhookd.json`, 'utf8'));
const end = Math.floor(Date.now() / 1000), start = end - minutes * 60, step = Math.max(1, Math.round(minutes * 60 / 240));

const named = {
  green: '#73BF69', yellow: '#FADE2A', orange: '#FF9830', red: '#F2495C', blue: '#5794F2', purple: '#B877D9', text: '#A0A4B0',
  'semi-dark-blue': '#3274D9', 'light-blue': '#8AB8FF', 'dark-red': '#C4162A', 'light-orange': '#FFB357',
};
const palette = ['#73BF69', '#F2CC0C', '#8AB8FF', '#FF780A', '#F2495C', '#5794F2', '#B877D9', '#705DA0', '#37872D', '#FADE2A', '#447EBC',
  '#C15C17', '#890F02', '#0A437C', '#6D1F62', '#584477', '#B7DBAB', '#F4D598', '#70DBED', '#F9BA8F', '#96D98D', '#E0B400', '#3274D9'];

const ask = async (path, q) => {
  const answer = await (await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(q)}`)).json();
  if (answer.status !== 'success') throw new Error(`${q.query}: ${answer.error}`);
  return answer.data.result;
};
const seconds = (s) => ({ m: 60, h: 3600 })[s?.slice(-1)] * parseInt(s) || 0;
const filled = (expr, panel) => expr
  .replaceAll('$__rate_interval', `${Math.max(4 * scrape, step + +scrape, seconds(panel.interval))}s`)
  .replace(/\$(job|namespace|livemode|code)/g, '.*');
const legend = (format, metric) => format.replace(/{{(\w+)}}/g, (_, l) => metric[l] ?? '');

function text(v, f) {
  const word = f.mappings?.flatMap((m) => Object.entries(m.options)).find(([k]) => +k === v)?.[1];
  if (word) return word.text;
  const d = f.decimals, n = (x, digits) => +x.toFixed(d ?? digits);
  switch (f.unit) {
    case 'percentunit': return `${n(v * 100, v < 0.1 ? 1 : 0)}%`;
    case 's': return v >= 86400 ? `${n(v / 86400, 1)} d` : v >= 3600 ? `${n(v / 3600, 1)} h` : v >= 60 ? `${n(v / 60, 1)} min` : v >= 1 || v === 0 ? `${n(v, 1)} s` : `${n(v * 1000, 1)} ms`;
    case 'bytes': return `${n(v / 1048576, 0)} MiB`;
    case 'cpm': return `${n(v, 1)} /min`;
    default: return `${n(v, v < 10 ? 2 : 0)}`;
  }
}
const colorAt = (v, f) => {
  const word = f.mappings?.flatMap((m) => Object.entries(m.options)).find(([k]) => +k === v)?.[1];
  if (word?.color) return named[word.color];
  const step = f.thresholds?.steps.filter((s) => s.value === null || v >= s.value).at(-1);
  return named[step?.color ?? 'green'];
};
const overrides = (panel, name) => Object.fromEntries(
  panel.fieldConfig.overrides.filter((o) => o.matcher.options === name).flatMap((o) => o.properties.map((p) => [p.id, p.value])));

async function drawn(panel) {
  const f = panel.fieldConfig.defaults;
  if (panel.type === 'stat') {
    const all = (await Promise.all(panel.targets.map(async (t) => (await ask('query', { query: filled(t.expr, panel) }))
      .map((s) => ({ name: legend(t.legendFormat, s.metric), v: +s.value[1] }))))).flat();
    const name = panel.options.textMode === 'name';
    return { stats: all.map((s) => ({ name: s.name, text: name ? s.name : text(s.v, f), color: colorAt(s.v, f), many: all.length > 1, small: name })) };
  }
  if (panel.type === 'table') return { table: await table(panel, f) };
  const series = [];
  for (const t of panel.targets) {
    for (const s of await ask('query_range', { query: filled(t.expr, panel), start, end, step })) {
      const values = new Map(s.values.map(([at, v]) => [at, +v]));
      const name = legend(t.legendFormat, s.metric), o = overrides(panel, name);
      series.push({ name, dash: !!o['custom.lineStyle'], color: o.color?.fixedColor,
        data: Array.from({ length: Math.floor((end - start) / step) + 1 }, (_, i) => { const v = values.get(start + i * step); return Number.isFinite(v) ? v : null; }) });
    }
  }
  const used = series.filter((s) => s.data.some((v) => v !== null));
  const busy = used.filter((s) => s.data.some((v) => v > 0));
  const shown = f.custom.drawStyle === 'bars' || used.length > 8 ? busy : used;
  shown.forEach((s, i) => { s.color = named[s.color] ?? palette[i % palette.length]; });
  return { plot: { series: shown, bars: f.custom.drawStyle === 'bars', min: f.min, max: f.max, unit: f.unit, decimals: f.decimals,
    marks: f.custom.thresholdsStyle?.mode === 'dashed' ? f.thresholds.steps.filter((s) => s.value !== null).map((s) => ({ v: s.value, color: named[s.color] })) : [],
    right: panel.options.legend.placement === 'right' } };
}

async function table(panel, f) {
  const organize = panel.transformations.find((t) => t.id === 'organize').options;
  const rows = new Map(), single = panel.targets.length === 1;
  for (const t of panel.targets) {
    for (const s of await ask('query', { query: filled(t.expr, panel) })) {
      const { __name__, ...labels } = s.metric;
      const key = labels.instance && panel.targets.length > 1 ? labels.instance : JSON.stringify(labels);
      rows.set(key, { ...rows.get(key), ...labels, [single ? 'Value' : `Value #${t.refId}`]: +s.value[1] });
    }
  }
  const columns = Object.keys(organize.renameByName).sort((a, b) => organize.indexByName[a] - organize.indexByName[b]).filter((c) => [...rows.values()].some((r) => r[c] !== undefined && r[c] !== ''));
  const by = panel.options.sortBy[0]?.displayName;
  const sorted = [...rows.values()];
  const key = columns.find((c) => organize.renameByName[c] === by);
  if (key) sorted.sort((a, b) => (b[key] ?? 0) - (a[key] ?? 0));
  return { head: columns.map((c) => organize.renameByName[c]), none: f.noValue ?? 'no data',
    rows: sorted.slice(0, 11).map((r) => columns.map((c) => {
      const o = overrides(panel, organize.renameByName[c]);
      const field = { ...f, ...(o.unit ? { unit: o.unit } : {}), ...(o.mappings ? { mappings: o.mappings } : {}) };
      const paint = o.mappings?.flatMap((m) => Object.entries(m.options)).find(([k]) => k === String(r[c]))?.[1]?.color;
      return { text: r[c] === undefined ? '' : typeof r[c] === 'number' ? text(r[c], field) : r[c], color: paint && named[paint],
        bar: o['custom.cellOptions']?.type === 'gauge' ? r[c] / Math.max(...sorted.map((x) => x[c] ?? 0)) : 0 };
    })) };
}

const uplot = readFileSync(`${here}node_modules/uplot/dist/uPlot.iife.min.js`, 'utf8');
const css = readFileSync(`${here}node_modules/uplot/dist/uPlot.min.css`, 'utf8');
const width = 1400, unit = width / 24, cell = 34;

function page(panels, title) {
  const top = Math.min(...panels.map((p) => p.gridPos.y)), bottom = Math.max(...panels.map((p) => p.gridPos.y + p.gridPos.h));
  const height = (bottom - top) * cell + 46;
  return [height, `<!doctype html><meta charset=utf-8><style>${css}
body{margin:0;background:#111217;color:#ccccdc;font:13px 'DejaVu Sans',sans-serif;width:${width}px;height:${height}px;position:relative}
.note{height:46px;line-height:46px;padding:0 10px;color:#9fa7b3} .note b{color:#fff}
.p{position:absolute;background:#181b1f;border:1px solid #2c3235;border-radius:3px;overflow:hidden;box-sizing:border-box}
.t{font-weight:bold;padding:5px 8px;font-size:12.5px;color:#d8d9da;white-space:nowrap;overflow:hidden}
.row{position:absolute;font-size:15px;font-weight:bold;padding:6px 4px}
.stat{position:absolute;inset:0;display:flex;align-items:center;justify-content:center;color:#fff;font-weight:bold;text-align:center;padding-top:14px}
.stats{position:absolute;inset:26px 4px 4px;display:flex;flex-direction:column;gap:4px}.stats div{flex:1;border-radius:3px;color:#fff;padding:6px 10px;font-weight:bold;font-size:17px;display:flex;justify-content:space-between;align-items:center}
table{border-collapse:collapse;width:100%;font-size:12px}th{text-align:left;color:#6e9fff;padding:3px 8px}td{padding:3px 8px;border-top:1px solid #24282c;white-space:nowrap}
.l{font-size:11px;padding:2px 8px;color:#c0c4cc;line-height:15px}.l span{display:inline-block;width:12px;height:3px;margin:0 4px 3px 8px}
.u-legend{display:none}</style><div class=note><b>${title}</b> &nbsp; a preview drawn from deploy/grafana/webhookd.json and live series of webhookd dev --demo. Not Grafana.</div>
<script>${uplot}</script><script>
const text=${text.toString()};const U=${unit},C=${cell},TOP=${top};
for(const p of ${JSON.stringify(panels)}){
 const g=p.gridPos,el=document.createElement('div');document.body.append(el);
 const box={left:g.x*U+3,top:46+(g.y-TOP)*C+3,width:g.w*U-6,height:g.h*C-6};for(const k in box)el.style[k]=box[k]+'px';
 if(p.type==='row'){el.className='row';el.textContent='⌄ '+p.title;continue}
 el.className='p';const t=document.createElement('div');t.className='t';t.textContent=p.title;el.append(t);const d=p.drawn;
 if(d.stats){if(!d.stats.length)d.stats=[{text:'no data',color:'#3a3f44',small:true}];
  if(d.stats[0].many){const w=document.createElement('div');w.className='stats';for(const s of d.stats){const x=document.createElement('div');x.style.background=s.color;x.innerHTML='<i style="font-weight:normal;font-style:normal">'+s.name+'</i>'+s.text;w.append(x)}el.append(w)}
  else{const s=d.stats[0];el.style.background=s.color;const dark=s.color==='#FADE2A'?'#181b1f':'#fff';t.style.color=dark;const x=document.createElement('div');x.className='stat';x.style.color=dark;x.style.fontSize=s.small?'15px':'30px';x.textContent=s.text;el.append(x)}continue}
 if(d.table){const w=d.table;if(!w.rows.length){const x=document.createElement('div');x.className='stat';x.style.color='#9fa7b3';x.textContent=w.none;el.append(x);continue}
  const tb=document.createElement('table');tb.innerHTML='<tr>'+w.head.map(h=>'<th>'+h+'</th>').join('')+'</tr>'+w.rows.map(r=>'<tr>'+r.map(c=>'<td style="'+(c.color?'color:'+c.color+';font-weight:bold;':'')+(c.bar?'background:linear-gradient(90deg,#3d5a94 '+c.bar*100+'%,transparent 0)':'')+'">'+c.text+'</td>').join('')+'</tr>').join('');el.append(tb);continue}
 const q=d.plot,xs=q.series[0]?.data.map((_,i)=>${start}+i*${step})??[];
 if(!xs.length){const x=document.createElement('div');x.className='stat';x.style.color='#9fa7b3';x.textContent='nothing';el.append(x);continue}
 const side=q.right?262:0,lines=q.right?0:Math.ceil(q.series.reduce((n,s)=>n+s.name.length*6.6+26,0)/(box.width-16));
 const lg=document.createElement('div');lg.className='l';if(q.right){lg.style.cssText='position:absolute;right:0;top:26px;width:'+side+'px;font-size:10.5px;line-height:13.5px'}
 lg.innerHTML=q.series.map(s=>'<div style="display:'+(q.right?'block':'inline-block')+'"><span style="background:'+s.color+'"></span>'+s.name+'</div>').join('');
 let data=q.series.map(s=>s.data),bands=[];
 if(q.bars){const sum=xs.map(()=>0);data=data.map(v=>v.map((x,i)=>{sum[i]+=x||0;return sum[i]}));data.reverse()}
 const ss=(q.bars?[...q.series].reverse():q.series).map(s=>q.bars?{stroke:s.color,fill:s.color,width:0,points:{show:false},paths:uPlot.paths.bars({size:[.9,40]})}:{stroke:s.color,width:1.6,fill:s.dash?undefined:s.color+'18',dash:s.dash?[6,5]:undefined,points:{show:false}});
 const peak=Math.max(...data.flat().filter(v=>v!=null),0);const holder=document.createElement('div');el.append(holder);el.append(lg);
 const ax={stroke:'#8e8e9a',grid:{stroke:'#24282c',width:1},ticks:{show:false},font:'11px DejaVu Sans'};
 new uPlot({width:box.width-side-4,height:box.height-30-lines*16,legend:{show:false},cursor:{show:false},scales:{x:{time:true},y:{range:(u,lo,hi)=>[q.min??Math.min(lo,0),q.max??(Math.max(peak,peak?0:1)*1.08)]}},
  series:[{},...ss],axes:[{...ax,size:24,values:(u,v)=>v.map(x=>new Date(x*1000).toISOString().slice(11,16))},{...ax,size:64,values:(u,v)=>v.map(x=>text(x,{unit:q.unit}))}],
  hooks:{draw:[u=>{for(const m of q.marks){const y=u.valToPos(m.v,'y',true);if(y<u.bbox.top)continue;u.ctx.save();u.ctx.strokeStyle=m.color;u.ctx.setLineDash([6,6]);u.ctx.beginPath();u.ctx.moveTo(u.bbox.left,y);u.ctx.lineTo(u.bbox.left+u.bbox.width,y);u.ctx.stroke();u.ctx.restore()}}]}},[xs,...data],holder);
}</script>`];
}

const out = `${here}../../docs/pictures`;
mkdirSync(out, { recursive: true });
mkdirSync(`${here}out`, { recursive: true });
const rows = board.panels.filter((p) => p.type === 'row').map((p) => p.gridPos.y);
const parts = [['users', -1, rows[1]], ['service', rows[1], rows[2]], ['completeness', rows[2], Infinity]];
for (const p of board.panels) if (p.type !== 'row') p.drawn = await drawn(p);
for (const [name, from, to] of parts) {
  const panels = board.panels.filter((p) => p.gridPos.y >= from && p.gridPos.y < to)
    .map(({ type, title, gridPos, drawn }) => ({ type, title, gridPos, drawn }));
  const [height, html] = page(panels, { users: 'webhookd', service: 'webhookd, continued', completeness: 'webhookd, continued' }[name]);
  writeFileSync(`${here}out/${name}.html`, html);
  execFileSync('chromium', ['--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--force-device-scale-factor=1',
    `--window-size=${width},${height}`, '--virtual-time-budget=3000', `--screenshot=${out}/dashboard-${name}.png`, `file://${here}out/${name}.html`], { stdio: 'ignore', timeout: 120_000 });
  console.log(`docs/pictures/dashboard-${name}.png`);
}
