"""The report as a page: the dataflow drawn, every process with its cycles and resources, the bottleneck marked."""

from __future__ import annotations

from html import escape
from typing import Any

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 250, 58, 24, 40
_STYLE = """body{font:14px/1.45 system-ui,sans-serif;margin:24px;color:#222;max-width:1200px}
h1{font-size:20px}h2{font-size:16px;margin-top:28px}table{border-collapse:collapse}
td,th{padding:3px 10px;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}
td:first-child,th:first-child,td.l,th.l{text-align:left}tr.slow td{background:#fde8e4}
.bar{background:#e8e8e8;width:160px;height:10px;display:inline-block}.bar i{background:#4a7dbd;height:10px;display:block}
.bar i.over{background:#c33}svg text{font:11px system-ui,sans-serif}
.scroll{overflow:auto;max-height:700px;border:1px solid #ddd}"""


def page(report: dict[str, Any], title: str) -> str:
    """A self-contained HTML page; every text of the model is escaped."""
    board, accuracy = report["board"], report["accuracy"]
    errors = zip(accuracy["error"], accuracy["reach"], strict=True)
    rows = [
        ("board", f"{board['name']} ({board['part']}), planned at {report['clock_mhz']:g} MHz"),
        ("throughput", f"{report['fps']:,.0f} frames a second: {report['interval_cycles']:,} cycles a frame"),
        ("latency", f"{report['latency_us']:,.1f} us: {report['latency_cycles']:,} cycles"),
        ("slowest", f"{report['bottleneck']}; {report['limited_by']}"),
        ("checked", f"C simulation of {report['csim']['frames']} frames equals the integers; lint: {report['lint']}"),
        ("precision", f"{accuracy['bits']} bits; largest error " + ", ".join(f"{e:.3g} of {r:.3g}" for e, r in errors)),
    ]
    facts = "".join(f"<tr><td>{escape(a)}</td><td class=l>{escape(b)}</td></tr>" for a, b in rows)
    marks = ", ".join(board["from_memory"])
    caveats = [*report["caveats"], *([f"facts of the board that were not checked: {marks}"] if marks else []), *report["notes"]]
    listed = "".join(f"<li>{escape(c)}</li>" for c in caveats)
    return f"""<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>
<h1>{escape(title)}</h1><table>{facts}</table>
<h2>Resources (estimated)</h2>{_usage_table(report["usage"])}
<h2>Ports ({report["interface"]})</h2>{_port_table(report)}
<h2>Dataflow</h2><div class=scroll>{_drawing(report)}</div>
<h2>Processes</h2>{_process_table(report)}
<h2>Streams</h2>{_stream_table(report["streams"])}
<h2>Notes</h2><ul>{listed}</ul>
"""


def _usage_table(usage: dict[str, dict[str, int]]) -> str:
    rows = ""
    for name, u in usage.items():
        part = u["used"] / u["board"] if u["board"] else 0.0
        over = " class=over" if u["used"] > u["allowed"] else ""
        bar = f'<span class=bar><i{over} style="width:{min(100, 100 * part):.1f}%"></i></span>'
        cells = (name.upper(), f"{u['used']:,}", f"{u['board']:,}", f"{part:.1%}", bar)
        rows += "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"
    return f"<table><tr><th></th><th>used</th><th>on the board</th><th></th><th></th></tr>{rows}</table>"


def _port_table(report: dict[str, Any]) -> str:
    rows = ""
    for kind in ("inputs", "outputs"):
        for p in report[kind]:
            meaning = "the model's own codes" if "quantizer" in p or "scale" in p else f"integer / 2^{p['frac']}"
            cells = (p["name"], p["shape"], kind[:-1], p["dtype"], meaning)
            rows += f"<tr><td>{escape(p['port'])}</td>" + "".join(f"<td class=l>{escape(str(c))}</td>" for c in cells)
            rows += f"<td>{p['beat']}</td></tr>"
    head = "".join(f"<th class=l>{h}</th>" for h in ("of the model", "shape", "", "codes", "value"))
    return f"<table><tr><th>port</th>{head}<th>elements a transfer</th></tr>{rows}</table>"


def _process_table(report: dict[str, Any]) -> str:
    rows = ""
    for p in report["processes"]:
        slow = " class=slow" if p["name"] == report["bottleneck"] else ""
        u = p["usage"]
        numbers = "".join(f"<td>{n:,}</td>" for n in (p["cycles"], p["ii"], u["dsp"], u["bram18"], u["uram"], u["lut"]))
        rows += f"<tr{slow}><td>{escape(p['name'])}</td><td class=l>{escape(p['about'])}</td>{numbers}</tr>"
    head = "".join(f"<th>{h}</th>" for h in ("cycles", "II", "DSP", "BRAM18", "URAM", "LUT"))
    return f"<table><tr><th>process</th><th class=l>what it does</th>{head}</tr>{rows}</table>"


def _stream_table(streams: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(s['name'])}</td><td class=l>{escape(s['type'])}</td><td class=l>{s['shape']}</td>"
        f"<td>{s['lanes']}</td><td>{s['depth']:,}</td><td>{s['bits']:,}</td></tr>" for s in streams
    )
    return ("<table><tr><th>stream</th><th class=l>type</th><th class=l>shape</th><th>lanes</th><th>depth</th><th>bits</th>"
            f"</tr>{rows}</table>")


def _drawing(report: dict[str, Any]) -> str:
    """Processes in layers, each below everything that it reads."""
    maker = {s: p["name"] for p in report["processes"] for s in p["outputs"]}
    layer: dict[str, int] = {}
    for p in report["processes"]:
        layer[p["name"]] = 1 + max((layer.get(maker.get(s, ""), 0) for s in p["inputs"]), default=0)
    columns: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for name, depth in layer.items():
        column = columns.get(depth, 0)
        columns[depth] = column + 1
        place[name] = (20 + column * (_WIDTH + _GAP_X), 10 + (depth - 1) * (_HEIGHT + _GAP_Y))
    parts = [_edge(place, maker, p, s, report) for p in report["processes"] for s in p["inputs"]]
    parts += [_box(p, *place[p["name"]], p["name"] == report["bottleneck"]) for p in report["processes"]]
    width = 40 + max(columns.values(), default=1) * (_WIDTH + _GAP_X)
    height = 20 + max(layer.values(), default=1) * (_HEIGHT + _GAP_Y)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{"".join(parts)}</svg>'


def _edge(
    place: dict[str, tuple[int, int]], maker: dict[str, str], p: dict[str, Any], stream: str, report: dict[str, Any]
) -> str:
    if maker.get(stream) not in place:
        return ""
    x, y = place[maker[stream]]
    u, v = place[p["name"]]
    depth = next(s["depth"] for s in report["streams"] if s["name"] == stream)
    x, u, y = x + _WIDTH // 2, u + _WIDTH // 2, y + _HEIGHT
    return (f'<path d="M{x},{y} C{x},{y + 24} {u},{v - 24} {u},{v}" fill="none" stroke="#888"/>'
            f'<text x="{(x + u) // 2 + 4}" y="{(y + v) // 2}" fill="#777">{depth}</text>')


def _box(p: dict[str, Any], x: int, y: int, slow: bool) -> str:
    u = p["usage"]
    colour = "#fde8e4" if slow else "#eef3fa"
    line = f"{p['cycles']:,} cycles, {u['dsp']} DSP, {u['bram18']} BRAM"
    about = p["about"] if len(p["about"]) <= 44 else p["about"][:43] + "..."
    return (f'<g><title>{escape(p["about"])}</title>'
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="{colour}" stroke="#999"/>'
            f'<text x="{x + 8}" y="{y + 16}" font-weight="bold">{escape(p["name"])}</text>'
            f'<text x="{x + 8}" y="{y + 32}">{escape(about)}</text>'
            f'<text x="{x + 8}" y="{y + 48}" fill="#555">{line}</text></g>')
