"""The HTML page a document stands in, and its style: for screens, phones, the dark and paper."""

from html import escape

from normbench.report.plots.style import THEME


def page(title: str, body: str) -> str:
    """A whole page; ``title`` is text, ``body`` is HTML."""
    return _PAGE.format(title=escape(title), css=_css(), body=body)


def piece(body: str) -> str:
    """``body`` with the colours that a page would give its pictures, always the light ones."""
    colors = ";".join(f"--{part}:{light}" for part, (light, _) in THEME.items())
    return f'<div style="{colors}">\n{body}\n</div>'


def _css() -> str:
    """The page's style, with the pictures' colours for light and dark; paper is always light."""
    light, dark = ("".join(f"--{part}:{both[i]};" for part, both in THEME.items()) for i in (0, 1))
    return (
        f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{_STYLE}"
    )


_STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem 1rem 4rem;max-width:78rem;background:var(--ground);
color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.4rem 0 .2rem}
h2{font-size:1.3rem;line-height:1.3;margin:1.4rem 0 .6rem;padding-top:.7rem;
border-top:2px solid var(--grid)}
h3{font-size:1.05rem;margin:1.8rem 0 .4rem}
p,li,dd{max-width:46rem;overflow-wrap:anywhere}
.muted,figcaption{color:var(--muted);font-size:.88rem}
.findings{border-left:.3rem solid var(--line1);padding:.1rem 0 .1rem 2rem;margin:.6rem 0 1.2rem}
.findings li{margin:.25rem 0;max-width:60rem}
.first{display:grid;gap:.4rem 2rem;align-items:start;
grid-template-columns:repeat(auto-fit,minmax(min(100%,33rem),1fr))}
@media (min-width:72rem){.first{grid-template:"table picture" auto "said picture" 1fr/4fr 3fr}
.first>.scroll{grid-area:table}.first>.pictures{grid-area:picture}.first>.findings{grid-area:said}}
.first>*{min-width:0}
.first tbody :not(.number),.first th{min-width:3rem}
.first .scroll{font-size:.95rem}
.first thead th{white-space:normal}
.scroll{overflow-x:auto;margin:.6rem 0 1rem;-webkit-overflow-scrolling:touch}
table{border-collapse:separate;border-spacing:0;font-size:.92rem;
font-variant-numeric:tabular-nums}
th,td{padding:.3rem .75rem .3rem 0;text-align:left;vertical-align:top}
tbody *{border-top:1px solid var(--grid);min-width:3.5rem}
tbody tr{border:0}
tbody tr:last-child>*{border-bottom:1px solid var(--grid)}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom}
tbody th{font-weight:400}
tbody :not(.number){min-width:5.5rem}
.number{text-align:right;white-space:nowrap}
th:first-child{position:sticky;left:0;background:var(--ground)}
.pictures{display:grid;gap:1rem 1.6rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))}
figure{margin:.4rem 0;max-width:38rem}
figure svg{display:block;width:100%;height:auto}
figure svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif!important}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.35rem 1.2rem;margin:.6rem 0}
dt{color:var(--muted)}
dd{margin:0}
pre{overflow-x:auto;border:1px solid var(--grid);border-radius:.5rem;padding:.7rem .9rem;
font-size:.85rem}
summary{cursor:pointer;margin:.5rem 0;font-weight:600}
@media screen and (max-width:34rem){
dl{grid-template-columns:1fr;gap:0}
dd{margin:0 0 .6rem}
th:first-child{max-width:40vw;overflow-wrap:break-word;
border-right:1px solid var(--grid)}
th:nth-child(2),td:nth-child(2){padding-left:.75rem}
.cards thead{display:none}
.cards,.cards tbody,.cards tbody *{display:block}
.cards tr{border:1px solid var(--grid);border-radius:.5rem;padding:.4rem .8rem;margin:0 0 .8rem}
.cards tr>*{position:static;max-width:none;border:0!important;padding:.15rem 0;text-align:left;
white-space:normal;overflow-wrap:anywhere;display:flex!important;gap:1rem;
justify-content:space-between}
.cards tbody th{font-weight:600}
.cards tr>*::before{content:attr(data-label);color:var(--muted);font-weight:400;font-size:.82rem;
flex:0 0 40%}
.first .cards tr{display:flex;flex-wrap:wrap;gap:0 .9rem;padding:.3rem .6rem;margin:0 0 .5rem;
font-size:.88rem}
.first .cards tr>*{display:block!important;padding:0;min-width:0}
.first .cards tr>*::before{content:attr(data-label) " "}
}
@media print{
:root{color-scheme:light}
body{max-width:none;padding:0}
.scroll{overflow:visible}
table{font-size:.72rem}
th,td{padding-right:.45rem}
tbody tr>:nth-child(n){min-width:0}
tbody :not(.number){overflow-wrap:anywhere}
.number{white-space:normal}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
.pictures{grid-template-columns:1fr 1fr}
figure,tr{break-inside:avoid}
h2,h3{break-after:avoid}
details::details-content{content-visibility:visible}
}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
