"""The style sheet of the report's page."""

CSS = """
:root{--bg:#fbfaf7;--card:#fff;--ink:#1d2327;--soft:#5c666d;--line:#e3e1da;--a:#0b6e8a;--b:#b4541a;--c:#8a8f94;
--good:#1b7f4b;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--bg:#14181b;--card:#1d2327;--ink:#eceae4;--soft:#a3adb3;--line:#333b41;
--a:#5cc3e0;--b:#f0a064;--c:#8b949a;--good:#5fca93;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 8px}h2{font-size:1.25rem;margin:0 0 8px}
header p,section>p{max-width:72ch;color:var(--soft);margin:0 0 16px}
section{margin-top:40px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin:20px 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile dt{color:var(--soft);font-size:.85rem}.tile dd{margin:0;font-size:1.5rem;font-weight:650}
.tile p{margin:2px 0 0;color:var(--soft);font-size:.85rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px;margin-bottom:16px}
.charts.time{grid-template-columns:minmax(0,680px)}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px 8px;
min-width:0}
figcaption{font-weight:600;margin-bottom:6px}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}
svg text.axis{fill:var(--soft)}svg .grid{stroke:var(--line)}svg .zero{stroke:var(--soft)}
svg polyline{fill:none;stroke-width:2.25;stroke-linejoin:round}
svg polyline.a{stroke:var(--a)}svg circle.a{fill:var(--a)}
svg polyline.b{stroke:var(--b);stroke-dasharray:6 4}svg circle.b{fill:var(--card);stroke:var(--b);stroke-width:2}
svg polyline.c{stroke:var(--c);stroke-width:1.5;stroke-dasharray:1 4;stroke-linecap:round}
svg circle.fired{fill:var(--bad);stroke:var(--card);stroke-width:1}svg .bar{fill:var(--a)}
svg .reach{stroke-width:2.5}
svg .good .reach{stroke:var(--good)}svg .good circle{fill:var(--good)}
svg .bad .reach{stroke:var(--bad)}svg .bad circle{fill:var(--bad)}
svg .quiet .reach{stroke:var(--c)}svg .quiet circle{fill:var(--c)}
.keys{margin:4px 0 2px;color:var(--soft);font-size:.82rem;min-height:1.2em}
.key{margin-right:14px;white-space:nowrap}
.key::before{content:"";display:inline-block;width:18px;height:0;margin-right:6px;vertical-align:middle;
border-top:3px solid currentColor}
.key.a::before{color:var(--a)}.key.b::before{color:var(--b);border-top-style:dashed}
.key.c::before{color:var(--c);border-top-style:dotted}
.key.fired::before,.key.good::before,.key.bad::before,.key.quiet::before{width:9px;height:9px;border:0;
border-radius:50%;background:currentColor}
.key.fired::before,.key.bad::before{color:var(--bad)}.key.good::before{color:var(--good)}
.key.quiet::before{color:var(--c)}
table{width:100%;border-collapse:collapse;background:var(--card);border:1px solid var(--line);font-size:.9rem}
caption{text-align:left;font-weight:600;padding:0 0 6px}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);vertical-align:top;
font-variant-numeric:tabular-nums}
thead th{color:var(--soft);font-weight:500;vertical-align:bottom}
th[scope=row],td.words,thead th.words{text-align:left}
td.day{white-space:nowrap}
tr.total th,tr.total td{font-weight:650}
td ul{margin:0;padding:0;list-style:none}td li{margin:0 0 4px;padding-left:16px;position:relative}
td li::before{position:absolute;left:0}
td li.good::before{content:"\\2713";color:var(--good)}td li.bad::before{content:"\\2717";color:var(--bad)}
td.wide{min-width:340px}
.pill{font-weight:600;white-space:nowrap}.pill.good{color:var(--good)}.pill.bad{color:var(--bad)}
.pill.quiet{color:var(--soft)}
@media (max-width:860px){
table,tbody,tr,th[scope=row],td{display:block;width:auto}thead{display:none}
caption{display:block}
tr{padding:8px 12px;border-bottom:1px solid var(--line)}
th[scope=row]{padding:0;border:0;font-weight:650}
td{padding:1px 0;border:0;text-align:left;min-width:0}td.wide{min-width:0}
td:not(:empty)::before{content:attr(data-name) ": ";color:var(--soft)}
td.wide::before{display:block}}
figure.strip{margin-bottom:16px;max-width:640px}
.strip .live{fill:var(--a)}.strip .live.odd{opacity:.62}.strip text.name{fill:var(--bg);font-weight:650}
@media print{body{background:#fff}figure,.tile{break-inside:avoid}}
"""
