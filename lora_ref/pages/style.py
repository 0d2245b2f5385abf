"""The style sheet of all pages: two palettes, chosen by the reader's system."""

STYLE = """
:root{--bg:#fff;--fg:#1b1f24;--soft:#5b6470;--line:#d9dee4;--card:#f6f8fa;
--exact:#1a7f37;--rounding:#0b63c5;--undecidable:#8a6100;--suspect:#b0500f;--bug:#c4232e;
--e0:#eef1f4;--e1:#fde8c4;--e2:#fbc98a;--e3:#f59a5b;--e4:#e0633f;--e5:#b3263a;--e6:#6d0f3a}
@media(prefers-color-scheme:dark){:root{--bg:#12161b;--fg:#e4e8ed;--soft:#98a3b0;--line:#2e353e;
--card:#1a2027;--exact:#4cc26b;--rounding:#66aefb;--undecidable:#dfb13f;--suspect:#ff9a57;--bug:#ff7b7f;
--e0:#222932;--e1:#4a2f38;--e2:#7c3040;--e3:#b33c40;--e4:#e0633f;--e5:#f5a25f;--e6:#fdecc0}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:28px 24px 48px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.45rem;margin:.1em 0 .6em;line-height:1.35}
h2{font-size:1.1rem;margin:2em 0 .6em;padding-bottom:.25em;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:0 0 .3em}
p{margin:.4em 0}
code,.formula{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:.87em;overflow-wrap:anywhere}
.what{color:var(--soft);margin:0;font-size:.9rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:0}
dt{color:var(--soft);font-size:.8rem;padding-top:.15em}dd{margin:0}
.badge{display:inline-block;padding:0 .6em;border-radius:1em;border:1px solid currentColor;
font-size:.82em;font-weight:600;white-space:nowrap}
h1 .badge{font-size:.8em;padding:.05em .7em;margin-right:.3em}
.exact{color:var(--exact)}.rounding{color:var(--rounding)}
.undecidable{color:var(--undecidable)}.suspect{color:var(--suspect)}
.bug{color:var(--bug)}
.counts{display:flex;flex-wrap:wrap;gap:10px;list-style:none;padding:0;margin:22px 0 10px}
.counts li{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:8px 18px;min-width:120px}
.counts b{display:block;font-size:1.5rem;line-height:1.2}.counts .none{color:var(--soft);opacity:.6}
.diagnosis{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--bug);
border-radius:6px;padding:10px 16px;margin:10px 0}
.diagnosis ul+.formula{margin-top:.9em}
.diagnosis ul{margin:.4em 0 0;padding-left:1.2em}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th{text-align:left;color:var(--soft);font-weight:500;white-space:nowrap}
th,td{padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
td:first-child{min-width:230px}td code{overflow-wrap:break-word}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;padding-right:16px}
details{margin:14px 0}summary{cursor:pointer;color:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;list-style:none;padding:0;font-size:.85rem}
.legend li{display:flex;align-items:center;gap:6px}.legend .unit{color:var(--soft)}
.legend i{width:20px;height:14px;border:1px solid var(--line);border-radius:2px}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(360px,1fr));gap:22px}
figure{margin:0}figcaption{font-size:.85rem;color:var(--soft);padding-left:46px;max-width:380px;
overflow-wrap:anywhere}figcaption code{color:var(--fg)}
svg{display:block;max-width:100%}svg text{font:10px system-ui,"DejaVu Sans",sans-serif;
fill:var(--soft)}svg .end{text-anchor:end}svg .axis{font-style:italic}
.frame{fill:none;stroke:var(--line)}
.e0{fill:var(--e0);background:var(--e0)}.e1{fill:var(--e1);background:var(--e1)}
.e2{fill:var(--e2);background:var(--e2)}.e3{fill:var(--e3);background:var(--e3)}
.e4{fill:var(--e4);background:var(--e4)}.e5{fill:var(--e5);background:var(--e5)}
.e6{fill:var(--e6);background:var(--e6)}
footer{margin-top:36px;color:var(--soft);font-size:.85rem}
"""
