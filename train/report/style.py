"""How the report looks: one style sheet for light and dark, wide and narrow. Series colours are told apart by the
colour-blind (after Okabe and Ito) and are dark enough on their ground to be read as text.
"""

STYLE = """
:root { --paper:#fbfaf8; --card:#fff; --ink:#1d2026; --soft:#5c626d; --rule:#e3e0da; --grid:#ece9e4; --band:#f5f3ef;
  --mark:#8b5200; --best:#fff4d9; --bad:#b3261e; --badbg:#fdecea; --accent:#0b5fa5;
  --s0:#0068a8; --s1:#c04a00; --s2:#007d5a; --s3:#9c3d85; --s4:#8a6100; --s5:#4a4fc0; --s6:#4b515c; --s7:#0f7484 }
@media (prefers-color-scheme:dark) { :root { --paper:#14161a; --card:#1b1e23; --ink:#e6e7ea; --soft:#a0a6b1;
  --rule:#30343c; --grid:#292d34; --band:#20242a; --mark:#f0c05a; --best:#3a3018; --bad:#ff9b92; --badbg:#402422;
  --accent:#7dbcf0; --s0:#62b4ee; --s1:#f29058; --s2:#45c9a0; --s3:#dc8fca; --s4:#e0b84e; --s5:#9ba0f5; --s6:#b8bec9;
  --s7:#5cc5d6 } }
* { box-sizing:border-box }
html { scroll-behavior:smooth; -webkit-text-size-adjust:100% }
body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue",Arial,sans-serif; font-variant-numeric:tabular-nums; overflow-wrap:anywhere }
main { max-width:1240px; margin:0 auto; padding:36px 24px 72px }
h1 { font-size:30px; line-height:1.15; margin:0 0 10px; letter-spacing:-.015em; font-weight:650 }
h2 { font-size:20px; margin:0 0 6px; letter-spacing:-.01em; font-weight:650 }
h3 { font-size:14px; margin:0; font-weight:600 }
h3 span, figcaption span, small { color:var(--soft); font-weight:400 }
sub { font-size:.72em; line-height:0 }
a { color:var(--accent); text-decoration:none } a:hover { text-decoration:underline }
section { margin-top:44px; padding-top:20px; border-top:1px solid var(--rule); scroll-margin-top:8px }
.kicker { margin:0; font-size:12px; letter-spacing:.08em; text-transform:uppercase; color:var(--soft) }
.lead:empty { display:none }
.lead, .story { margin:0 0 16px; color:var(--soft); max-width:100ch }
.story b { color:var(--ink); font-weight:600 }
.lead b { color:var(--s6) }
.lead .own { color:var(--s0) } .lead .published { color:var(--s1) }
.facts { list-style:none; display:flex; flex-wrap:wrap; gap:3px 18px; margin:0 0 6px; padding:0 }
.facts span { color:var(--soft) } .facts b { font-weight:600 }
nav { display:flex; flex-wrap:wrap; gap:4px 18px; font-size:14px }
.missing { margin:12px 0 0; padding:8px 12px; border-left:3px solid var(--mark); background:var(--band);
  color:var(--soft); font-size:14px }
.grid { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,350px),1fr)); gap:14px }
.grid.four { grid-template-columns:repeat(auto-fill,minmax(min(100%,270px),1fr)) }
figure { margin:0; padding:12px 12px 6px; background:var(--card); border:1px solid var(--rule); border-radius:8px;
  min-width:0 }
figcaption { font-size:13px; line-height:1.35; margin:0 2px 6px } figcaption b { font-weight:600; display:block }
figcaption span { font-size:12px }
.extra { width:100%; margin:8px 0 4px; font-size:12px; line-height:1.35; white-space:nowrap }
.extra th { font-weight:400; color:var(--soft) }
.extra th:first-child { text-align:left } .extra th, .extra td { text-align:right; padding:2px 0 2px 5px }
.extra th:first-child { padding-left:2px } .extra tr { border-top:1px solid var(--grid) }
svg { display:block; width:100%; height:auto; max-width:560px; overflow:visible }
svg text { font-size:10.5px; fill:var(--soft); font-family:inherit }
svg .phase { font-size:10px; letter-spacing:.02em } svg .label { font-weight:600; font-size:11px }
svg .last { font-weight:400; font-size:10.5px; fill:var(--soft) }
.band0 { fill:transparent } .band1 { fill:var(--band) } .grid-line, path { fill:none }
svg .grid { stroke:var(--grid) } svg .zero { stroke:var(--soft); stroke-opacity:.6 } svg .mark { stroke:var(--rule) }
svg .border { stroke:var(--rule); stroke-dasharray:2 2 } svg .leader { stroke:var(--rule) }
svg .raw { stroke-width:2.6; stroke-linecap:round; stroke-opacity:.26 }
svg .line, svg .key { stroke-width:1.9; stroke-linejoin:round }
svg .row { font-size:11.5px; fill:var(--ink) } svg .value { font-size:11.5px; fill:var(--ink) }
svg .whisker { stroke:var(--s6); stroke-width:1.4 } svg .mean { fill:var(--s6); stroke:var(--card); stroke-width:1 }
svg .own .mean, svg .best .mean { fill:var(--s0) } svg .own .whisker, svg .best .whisker { stroke:var(--s0) }
svg .best text { font-weight:700 } svg .best-line { stroke:var(--s0); stroke-opacity:.35; stroke-dasharray:3 3 }
svg .published .mean { fill:var(--card); stroke:var(--s1); stroke-width:1.5 } svg .published text { fill:var(--soft) }
table { border-collapse:collapse }
.scores { width:100%; font-size:14px; margin-bottom:18px }
.scores th, .scores td { text-align:right; padding:8px 10px; border-bottom:1px solid var(--rule); vertical-align:top }
.scores th:first-child { text-align:left; padding-left:4px } .scores thead th { font-weight:500; color:var(--soft);
  font-size:12.5px; line-height:1.25; vertical-align:bottom; border-bottom:1.5px solid var(--soft) }
.scores small { display:block; font-size:11.5px; font-weight:400; line-height:1.3; white-space:nowrap }
.scores th small { white-space:normal } .scores tbody th { font-weight:600 }
.scores .best { background:var(--best); font-weight:700 } .scores .best i { color:var(--mark); font-style:normal }
.scores .published { color:var(--soft); font-weight:400 } .scores .none { color:var(--soft) }
.compared { font-size:13px; white-space:nowrap } .compared th { font-weight:400; color:var(--soft); text-align:left }
.compared th, .compared td { padding:4px 9px; border-bottom:1px solid var(--grid); vertical-align:bottom }
.compared td, .compared thead th { text-align:right; white-space:normal } .compared .stage th { padding-top:12px }
.compared td.score { white-space:nowrap }
.pairs { display:grid; grid-template-columns:minmax(270px,1fr) minmax(0,2fr); gap:14px }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(200px,1fr)); gap:10px 28px; margin:0 0 16px }
.tiles h3 { font-size:12.5px; font-weight:500; color:var(--soft) } .tiles p { margin:0; line-height:1.2 }
.tiles b { font-size:25px; font-weight:600; letter-spacing:-.02em } .tiles span { color:var(--soft); font-size:13px }
.tiles small { font-size:12px } .tiles:empty { display:none }
article { display:grid; grid-template-columns:232px minmax(0,1fr); gap:20px; padding:16px; margin-bottom:14px;
  background:var(--card); border:1px solid var(--rule); border-radius:8px }
.replies { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr)); gap:18px 24px }
.said { min-width:0 }
.picture img { width:100%; height:auto; border-radius:4px; display:block; border:1px solid var(--rule) }
.said .facts { font-size:13px; margin:2px 0 8px } .scroll { overflow-x:auto }
.board { font-size:11.5px; line-height:1.25 }
.board td { border:1px solid var(--rule); padding:3px 6px; min-width:54px; text-align:center; overflow:hidden;
  overflow-wrap:normal; unicode-bidi:isolate }
.board .empty { color:var(--soft); opacity:.65 } .board .wrong { background:var(--badbg) }
.wrong i, .wrong s { color:var(--bad); font-style:normal } .wrong b { display:block; font-weight:600 }
.reading { display:flex; flex-wrap:wrap; gap:4px 22px; margin-bottom:8px }
.reading > div { max-width:100% }
.think::before { content:"think: "; color:var(--soft) }
.think { flex:1 1 240px; margin:0; max-width:80ch; font-size:14px; unicode-bidi:isolate;
  overflow:hidden }
.think i, em { color:var(--soft) }
details summary { cursor:pointer; color:var(--accent); font-size:13.5px }
pre { white-space:pre-wrap; overflow:hidden; unicode-bidi:isolate; background:var(--band); border-radius:6px;
  padding:10px 12px; font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; margin:8px 0 0 }
.settings { columns:3 320px; column-gap:28px; margin-top:12px; font-size:13px }
.settings table { width:100%; break-inside:avoid; margin-bottom:18px }
.settings caption { text-align:left; font-weight:600; padding-bottom:4px }
.settings th { text-align:left; font-weight:400; color:var(--soft); padding:3px 12px 3px 0; vertical-align:top }
.settings td { text-align:right; padding:3px 0 } .settings tr { border-bottom:1px solid var(--rule) }
@media (max-width:760px) {
  main { padding:22px 14px 48px } h1 { font-size:24px } section { margin-top:32px }
  .scores, .scores tbody, .scores tr, .scores td, .scores tbody th { display:block } .scores thead { display:none }
  .scores tr { padding:10px 0 14px } .scores tbody th { border:0; padding:4px 0 6px; font-size:16px }
  .scores td { display:flex; justify-content:space-between; padding:4px 6px; border-bottom:1px solid var(--grid) }
  .scores td::before { content:attr(data-label); color:var(--soft); font-weight:400 }
  .scores td small { display:inline; margin-left:8px } .tiles { grid-template-columns:1fr 1fr; gap:12px 16px }
  .pairs { grid-template-columns:minmax(0,1fr) }
  article { grid-template-columns:minmax(0,1fr); padding:12px } .picture { max-width:232px }
}
@media print { nav { display:none } figure, article { break-inside:avoid } }
""".strip()
