"""The page's style: light and dark, wide and narrow, screen and paper. System fonts; nothing is loaded."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #17191d; --soft: #5c626d; --line: #e2dfd8;
  --ours: #2f5bd3; --floor: #bfc2c9; --mark: #eef1fb; --edge: clamp(1.25rem, 5vw, 4rem);
  --sans: system-ui, -apple-system, "Segoe UI", "Inter", "Noto Sans", "Liberation Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", "JetBrains Mono", "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #111316; --card: #191c20; --ink: #e8e7e3; --soft: #a1a7b2; --line: #2c3037;
    --ours: #8fabff; --floor: #565d69; --mark: #1d2330;
  }
}
*, ::before, ::after { box-sizing: border-box; }
figure { margin: 0; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.6 var(--sans);
  overflow-wrap: anywhere; }
header, nav, main, footer { max-width: 78rem; margin-inline: auto; padding-inline: var(--edge); }
a { color: inherit; text-decoration-color: var(--floor); text-underline-offset: .2em; }
a:hover { text-decoration-color: currentColor; }
:focus-visible { outline: 2px solid var(--ours); outline-offset: 3px; border-radius: 2px; }
.skip { position: absolute; left: -100vw; padding: .5rem 1rem; background: var(--card); }
.skip:focus { left: .5rem; top: .5rem; z-index: 1; }

header { padding-top: clamp(3rem, 8vw, 6.5rem); }
.kicker { margin: 0 0 1.25rem; font-size: .875rem; letter-spacing: .02em; color: var(--soft); }
h1 { margin: 0; font-size: clamp(2.4rem, 5vw, 3.5rem); line-height: 1.05; font-weight: 680; letter-spacing: -.035em;
  text-wrap: balance; }
.opening { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.75rem 4rem; }
.lead { max-width: 40rem; font-size: 1.125rem; line-height: 1.5; }
.lead p { margin: 0 0 .8em; }
.lead p + p { color: var(--soft); }

.keys, .bars { list-style: none; margin: 0; padding: 0; }
.keys { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14.5rem), 1fr)); gap: 2.5rem 2.25rem;
  margin-block: clamp(2.5rem, 6vw, 4.5rem); }
.key { border-top: 2px solid var(--ink); padding-top: .75rem; }
.key p { margin: 0; }
.key .label { font-size: .875rem; font-weight: 600; }
.key .value { font-size: clamp(2.5rem, 5vw, 3.25rem); line-height: 1.15; font-weight: 640; letter-spacing: -.035em;
  font-variant-numeric: tabular-nums; }
.key .note { font-size: .875rem; line-height: 1.45; color: var(--soft); }
.bars { margin-top: .9rem; font-size: .8125rem; color: var(--soft); }
.bars li { display: grid; grid-template-columns: 5.8rem 1fr 3.8rem; align-items: center; gap: .6rem; }
.bars .of { text-align: right; font-variant-numeric: tabular-nums; }
.bar { height: .5rem; }
.bar i { display: block; height: 100%; min-width: 1px; background: var(--floor); border-radius: 1px; }
.ours { color: var(--ink); font-weight: 600; }
.ours .bar i { background: var(--ours); }

.tally { max-width: 42rem; }
.tally .bars { margin-top: .4rem; font-size: .875rem; }
.tally .bars li { grid-template-columns: 11rem 1fr 7rem; }
.tally figcaption { margin-top: 0; }
.strips { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 1.25rem 2.5rem; align-items: start; }
.strip { grid-column: 1 / -1; }
.large { grid-column: 1; grid-row: span 2; }
.large ~ .strip { grid-column: 2; }
.strip figcaption { margin: 0 0 .4rem; }
.strip ul { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem; margin: 0; padding: 0; }
.strip img { width: auto; height: 4.25rem; border-radius: 3px; }
.large img { height: 10.5rem; max-width: 14rem; border-radius: 5px; object-fit: contain; }
.link { margin-bottom: 0; font-weight: 600; }

nav { margin-top: clamp(2.5rem, 6vw, 4rem); font-size: .9375rem; }
nav ol { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem 1.5rem; margin: 0; padding: 1rem 0;
  border-block: 1px solid var(--line); }
nav a { text-decoration: none; color: var(--soft); }
nav a:hover { color: var(--ink); text-decoration: underline; }

section { padding-block: clamp(3rem, 7vw, 5.5rem); border-top: 1px solid var(--line); }
section:first-child { border-top: 0; }
section > * + * { margin-top: 2rem; }
h2 { margin: 0; font-size: clamp(1.5rem, 3vw, 2rem); line-height: 1.15; font-weight: 660; letter-spacing: -.022em;
  text-wrap: balance; scroll-margin-top: 2rem; }
.prose { max-width: 42rem; }
.prose p { margin: 0 0 .8em; }
.prose p:last-child { margin-bottom: 0; }
@media (min-width: 60rem) {
  section { display: grid; grid-template-columns: 15rem minmax(0, 1fr); column-gap: 3rem; }
  section > * { grid-column: 1 / -1; }
  section > h2 { grid-column: 1; }
  section > .prose { grid-column: 2; margin-top: 0; padding-top: .2rem; }
  section > .tally, .tally + .link { grid-column: 2; }
  section > h2 + .tally { margin-top: .4rem; }
  .strips { grid-template-columns: 15rem minmax(0, 1fr); column-gap: 3rem; }
}

figcaption, caption { font-size: .875rem; line-height: 1.5; color: var(--soft); text-align: left; }
figcaption { max-width: 46rem; margin-top: .75rem; }
.scroll { overflow-x: auto; }
.sheet > .scroll, .chart > .scroll { padding: clamp(.5rem, 1.5vw, 1rem); background: #fff;
  border: 1px solid var(--line); border-radius: 6px; }
img { display: block; max-width: 100%; height: auto; margin-inline: auto; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 2.5rem 3rem;
  align-items: start; }

table { width: 100%; border-collapse: collapse; font-size: .9375rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
caption { padding-bottom: .6rem; font-weight: 600; color: var(--ink); }
th, td { padding: .55rem 1.5rem .55rem 0; text-align: left; vertical-align: baseline;
  border-top: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
thead th { border-top: 0; border-bottom: 1px solid var(--ink); font-size: .8125rem; font-weight: 600;
  vertical-align: bottom; }
thead + tbody tr:first-child > * { border-top: 0; }
tbody th { font-weight: 500; min-width: 10.5rem; }
.beside tbody th { width: 45%; min-width: 0; color: var(--soft); font-weight: 400; }
.number { text-align: right; white-space: nowrap; }
td strong { font-weight: 700; }
small { display: block; font-size: .8125rem; line-height: 1.35; font-weight: 400; color: var(--soft); }
.small { max-width: 46rem; margin: 1rem 0 0; font-size: .875rem; line-height: 1.5; color: var(--soft); }
code { font-family: var(--mono); font-size: .875em; }
p code, figcaption code { padding: .1em .3em; border-radius: 3px; background: var(--mark); }
.code figcaption { margin: 0 0 .5rem; color: var(--ink); font-weight: 600; }
pre { margin: 0; padding: 1rem 1.25rem; border: 1px solid var(--line); border-radius: 6px; background: var(--card);
  font-size: .9375rem; line-height: 1.65; }
.columns { columns: 22rem; white-space: pre-wrap; }
footer { padding-block: 2rem 5rem; font-size: .875rem; color: var(--soft); }
footer p { margin: 0; padding-top: 1.25rem; border-top: 1px solid var(--line); max-width: none; }

@media (max-width: 44rem) {
  .sheet img, .wide img { max-width: none; width: 46rem; }
  .tally .bars li { grid-template-columns: 8rem 1fr 5.5rem; }
  .strips { display: block; }
  .strip + .strip { margin-top: 1rem; }
  th, td { padding-right: 1rem; }
  thead th:first-child, tbody th { position: sticky; left: 0; min-width: 7.5rem; background: var(--paper); }
}
@media (prefers-color-scheme: dark) {
  .sheet > .scroll { border-color: transparent; background: #e4e4e2; }
  .sheet img { mix-blend-mode: multiply; }
  .chart > .scroll { border-color: #ddd; filter: invert(.9) hue-rotate(180deg); }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --ours: #2f5bd3;
    --floor: #bbb; --mark: #f2f2f2; }
  @page { margin: 16mm 14mm; }
  html { font-size: 11.5px; }
  header, nav, main, footer { max-width: none; padding-inline: 0; }
  header { padding-top: 0; }
  nav, .skip { display: none; }
  section { display: block; padding-block: 7mm; }
  section > .prose { margin-top: 3mm; }
  .keys { grid-template-columns: repeat(4, 1fr); gap: 1.5rem; margin-block: 2rem; }
  .key .value { font-size: 2.1rem; }
  h2, caption, section > .prose { break-after: avoid; }
  figure, tr, .key, .strips, section > .prose { break-inside: avoid; }
  td code { overflow-wrap: anywhere; }
  .scroll { overflow: visible; }
  .sheet > .scroll, .chart > .scroll { background: #fff; filter: none; border-color: #ccc; }
  .sheet img, .wide img { width: auto; max-width: 100%; mix-blend-mode: normal; }
}
"""
