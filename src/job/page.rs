// SPDX-License-Identifier: MPL-2.0
//! A comparison as a page that needs nothing else: players, tables, plots and pictures in one HTML file.

use std::fmt::{self, Write};

use super::sweep::{Change, Comparison, Looked, Over, short};
use crate::engine::metrics::{Better, Measure, SIDE};

const STYLE: &str = include_str!("compare.css");
const SCRIPT: &str = include_str!("compare.js");
/// Pictures of a variant in the contact sheet.
const IN_SHEET: usize = 4;
/// Containers that browsers play.
const PLAYED: [&str; 2] = ["mp4", "webm"];
/// The change, in per cent, that has the full colour in the table of influence.
const FULL_COLOUR: f64 = 50.0;
/// The size of a plot, and where its axes are, in pixels.
const PLOT: [f64; 2] = [220.0, 130.0];
const LEFT: f64 = 44.0;
const RIGHT: f64 = 208.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 104.0;

/// Text as HTML shows it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// The page of a comparison.
pub fn html(comparison: &Comparison, overs: &[Over]) -> String {
    let made: Vec<_> = comparison.variants.iter().filter(|variant| variant.failed.is_none()).collect();
    // What was measured of one at least.
    let measures: Vec<_> = comparison
        .measures
        .iter()
        .filter(|measure| made.iter().any(|variant| variant.metrics.contains_key(measure.name)))
        .collect();
    let (scene, count) = (Escaped(&comparison.scene), comparison.variants.len());
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Scene {scene}: {count} variants</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>Scene {scene}: {count} variants</h1>\n<p class=\"soft\">{} from {}; {}</p>\n",
        Escaped(&varied(overs)),
        Escaped(&comparison.config),
        Escaped(&comparison.generator),
    );
    for variant in &comparison.variants {
        if let Some(reason) = &variant.failed {
            let _ = writeln!(page, "<p><b>{}</b> is missing: {}</p>", Escaped(&variant.name), Escaped(reason));
        }
    }
    page += &players(&made);
    page += &table(&made, &measures);
    if made.iter().any(|variant| variant.interpolated) {
        page += "<p>Motion smoothness is left out for clips that were interpolated: RIFE would be held against itself.</p>\n";
    }
    page += &matrix(comparison, &made, overs, &measures);
    page += &plots(&made, overs, &measures);
    page += &sheet(&made);
    page += "<h2>What is measured</h2>\n";
    let _ = writeln!(
        page,
        "<p>Frames are looked at with at most {SIDE} pixels on their longer side, and px are pixels of frames of that size. A \
         clip that stands still is the steadiest of all: read what is said of steadiness beside the motion.</p>\n<dl>"
    );
    for measure in &measures {
        let best = match measure.better {
            Better::Higher => "Higher is better.",
            Better::Lower => "Lower is better.",
            Better::One => "1 is best.",
            Better::Neither => "Neither more nor less is better.",
        };
        let _ = writeln!(
            page,
            "<dt>{}{}</dt><dd>{} {best}</dd>",
            Escaped(measure.title),
            Escaped(&unit(measure)),
            Escaped(measure.about)
        );
    }
    page += "</dl>\n";
    let clips = made.iter().map(|variant| {
        // Where pictures are left out, the others are shown for longer.
        let rate = variant.fps.max(0.1) * variant.pictures.len() as f64 / variant.frames.max(1) as f64;
        let pictures = variant.pictures.iter().map(|picture| base64(picture)).collect::<Vec<_>>();
        serde_json::json!({ "rate": rate, "pictures": pictures })
    });
    let clips = serde_json::Value::from_iter(clips);
    let _ = writeln!(
        page,
        "<script type=\"application/json\" id=\"pictures\">{clips}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>"
    );
    page
}

/// What differs, in words.
fn varied(overs: &[Over]) -> String {
    let parts: Vec<_> = overs.iter().map(|over| format!("{}: {}", over.key, over.values.join(", "))).collect();
    parts.join("; ")
}

fn unit(measure: &Measure) -> String {
    if measure.unit.is_empty() { String::new() } else { format!(", {}", measure.unit) }
}

/// The address of a file in the folder of the page.
fn address(file: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.=,~".contains(&byte);
    let parts =
        file.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    format!("./{}", parts.collect::<String>())
}

/// A value's name in parts that a line may break between.
fn label(name: &str) -> String {
    Escaped(name).to_string().replace(',', ", ").replace('_', "_<wbr>").replace('=', "<wbr>=")
}

/// A picture as an address.
fn jpeg(picture: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", base64(picture))
}

fn image(picture: &[u8], text: &str) -> String {
    format!("<img alt=\"{}\" src=\"{}\">", Escaped(text), jpeg(picture))
}

fn players(made: &[&Looked]) -> String {
    let mut text = "<h2>Side by side</h2>\n<div class=\"controls card\" hidden>\n\
        <button id=\"play\" type=\"button\">Play</button>\n\
        <input id=\"scrubber\" type=\"range\" min=\"0\" max=\"1000\" step=\"any\" value=\"0\" aria-label=\"Time\">\n\
        <output id=\"time\"></output>\n\
        <select id=\"speed\" aria-label=\"Speed\"><option value=\"0.25\">¼ speed</option><option value=\"0.5\">½ speed</option>\
        <option value=\"1\" selected>full speed</option></select>\n\
        <select id=\"shown\" aria-label=\"What is shown\"><option value=\"pictures\">the clips</option>\
        <option value=\"difference\">4 x difference to the first</option></select>\n</div>\n\
        <div id=\"players\" class=\"grid\">\n"
        .to_string();
    for variant in made {
        let _ = writeln!(
            text,
            "<figure><div class=\"screen\">{}<img class=\"other\" alt=\"\"></div><figcaption><b>{}</b><br>{} frames, {} a \
             second · <a href=\"{}\">the file</a></figcaption></figure>",
            variant.pictures.first().map(|picture| image(picture, &variant.name)).unwrap_or_default(),
            label(&variant.name),
            variant.frames,
            (variant.fps * 1000.0).round() / 1000.0,
            Escaped(&address(&variant.file)),
        );
    }
    text + "</div>\n"
}

/// The best value of a measure as it is shown, if some differ.
fn best(made: &[&Looked], measure: &Measure) -> Option<String> {
    let values = || made.iter().filter_map(|variant| variant.metrics.get(measure.name).copied());
    let decimals = decimals_of(made, measure);
    let shown = |value: f64| format!("{value:.decimals$}");
    let first = shown(values().next()?);
    if values().all(|value| shown(value) == first) {
        return None;
    }
    let best = match measure.better {
        Better::Higher => values().reduce(f64::max),
        Better::Lower => values().reduce(f64::min),
        Better::One => values().min_by(|one, other| (one - 1.0).abs().total_cmp(&(other - 1.0).abs())),
        Better::Neither => None,
    };
    best.map(shown)
}

fn head(measures: &[&Measure]) -> String {
    let cells = measures.iter().map(|measure| {
        format!(
            "<th scope=\"col\" title=\"{}\">{}<small>{}</small></th>",
            Escaped(measure.about),
            Escaped(measure.title),
            Escaped(measure.unit)
        )
    });
    cells.collect()
}

fn table(made: &[&Looked], measures: &[&Measure]) -> String {
    let mut text = format!(
        "<h2>Measured</h2>\n<p>★ marks the best of a column. Variants differ by chance, too: sweep <code>video.seed</code> to \
         see by how much.</p>\n\
         <div class=\"scroll card\"><table><thead><tr><th scope=\"col\">Variant</th>{}</tr></thead><tbody>\n",
        head(measures)
    );
    for variant in made {
        let _ = write!(text, "<tr><th scope=\"row\">{}</th>", label(&variant.name));
        for measure in measures {
            let decimals = decimals_of(made, measure);
            let shown = variant.metrics.get(measure.name).map(|value| format!("{value:.decimals$}"));
            let class = if shown.is_some() && shown == best(made, measure) { " class=\"best\"" } else { "" };
            let _ = write!(text, "<td{class}>{}</td>", shown.as_deref().unwrap_or("–"));
        }
        text += "</tr>\n";
    }
    text + "</tbody></table></div>\n"
}

/// How much better a change is: from -1, which is much worse, to 1. 0 where nothing is better.
fn gain(measure: &Measure, change: &Change) -> f64 {
    let percent = match measure.better {
        // Shares: what they lack of 1 is what counts.
        Better::Higher if measure.unit.is_empty() && change.low < 1.0 => change.change / (1.0 - change.low) * 100.0,
        _ => change.percent.unwrap_or(if change.change == 0.0 { 0.0 } else { 100.0 }),
    };
    let share = percent / FULL_COLOUR;
    let gain = match measure.better {
        Better::Higher => share.abs() * change.change.signum(),
        Better::Lower => -share.abs() * change.change.signum(),
        Better::One => ((change.low - 1.0).abs() - (change.high - 1.0).abs()) * 100.0 / FULL_COLOUR,
        Better::Neither => 0.0,
    };
    gain.clamp(-1.0, 1.0)
}

fn matrix(comparison: &Comparison, made: &[&Looked], overs: &[Over], measures: &[&Measure]) -> String {
    let mut text = format!(
        "<h2>Influence</h2>\n<p>What changes from the lowest to the highest value, on average over the other values. \
         <span class=\"key\" style=\"--fill: var(--good)\"></span> better, <span class=\"key\" style=\"--fill: var(--bad)\">\
         </span> worse, the stronger the more; from {FULL_COLOUR} % on in full. Shares count by what they \
         lack of 1.</p>\n\
         <div class=\"scroll card\"><table class=\"matrix\"><thead><tr><th scope=\"col\">Measure</th>"
    );
    for influence in &comparison.influence {
        let _ = write!(
            text,
            "<th scope=\"col\">{}<small>{} → {}</small></th>",
            Escaped(short(overs, &influence.key)),
            Escaped(&influence.low),
            Escaped(&influence.high)
        );
    }
    text += "</tr></thead><tbody>\n";
    for measure in measures {
        let decimals = decimals_of(made, measure);
        let _ = write!(text, "<tr><th scope=\"row\">{}</th>", Escaped(measure.title));
        for influence in &comparison.influence {
            let Some(change) = influence.changes.get(measure.name) else {
                text += "<td>–</td>";
                continue;
            };
            let gain = gain(measure, change);
            let colour = if gain > 0.0 { "good" } else { "bad" };
            let percent = change.percent.map(|percent| format!("{} %", signed(percent, decimals_of_percent(percent))));
            let _ = write!(
                text,
                "<td style=\"--fill: color-mix(in srgb, var(--{colour}) {:.0}%, transparent)\">{} <small>{} {}</small></td>",
                gain.abs() * 70.0,
                percent.as_deref().unwrap_or("–"),
                signed(change.change, decimals),
                Escaped(measure.unit)
            );
        }
        text += "</tr>\n";
    }
    text + "</tbody></table></div>\n"
}

fn decimals_of_percent(percent: f64) -> usize {
    if percent.abs() < 10.0 { 1 } else { 0 }
}

fn plots(made: &[&Looked], overs: &[Over], measures: &[&Measure]) -> String {
    let mut text =
        "<h2>Plots</h2>\n<p>Dots are variants; thin lines join those that differ in the one value alone; the thick \
                    line is the mean.</p>\n"
            .to_string();
    for (number, over) in overs.iter().enumerate() {
        let _ = writeln!(text, "<h3>Over {}</h3>\n<div class=\"grid plots\">", Escaped(&over.key));
        measures.iter().for_each(|measure| text += &plot(made, over, number, measure));
        text += "</div>\n";
    }
    text
}

/// A measure over the values of a key; nothing, if it is the same everywhere.
fn plot(made: &[&Looked], over: &Over, key: usize, measure: &Measure) -> String {
    let values = || made.iter().filter_map(|variant| Some((*variant, *variant.metrics.get(measure.name)?)));
    let (low, high) =
        values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, value)| (low.min(value), high.max(value)));
    let decimals = decimals_of(made, measure);
    let number = |value: f64| format!("{value:.decimals$}");
    if number(low) == number(high) {
        return String::new();
    }
    let order = over.order();
    let numbers = over.numbers();
    // Numbers where they belong, and all else in equal steps.
    let place = |value: usize| match &numbers {
        Some(numbers) => (numbers[value] - numbers[order[0]]) / (numbers[order[order.len() - 1]] - numbers[order[0]]),
        None => order.iter().position(|other| *other == value).unwrap_or(0) as f64 / (order.len() - 1) as f64,
    };
    let x = |value: usize| LEFT + 10.0 + (RIGHT - LEFT - 20.0) * place(value);
    let y = |value: f64| BOTTOM - 6.0 - (BOTTOM - TOP - 12.0) * (value - low) / (high - low);
    let line = |class: &str, points: &[(f64, f64)]| {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        format!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "))
    };
    let mut drawn = format!(
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
         <line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/>"
    );
    let others = |variant: &Looked| {
        let mut numbers = variant.numbers.clone();
        numbers.remove(key);
        numbers
    };
    let mut families: Vec<_> = made.iter().map(|variant| others(variant)).collect();
    families.sort();
    families.dedup();
    let points = |is_of: &dyn Fn(&Looked) -> bool| -> Vec<(f64, f64)> {
        let at = |value: &usize| {
            let here: Vec<_> =
                values().filter(|(of, _)| of.numbers[key] == *value && is_of(of)).map(|(_, value)| value).collect();
            (!here.is_empty()).then(|| (x(*value), y(here.iter().sum::<f64>() / here.len() as f64)))
        };
        order.iter().filter_map(at).collect()
    };
    if families.len() > 1 {
        families.iter().for_each(|family| drawn += &line("one", &points(&|of| others(of) == *family)));
    }
    drawn += &line("mean", &points(&|_| true));
    for (variant, value) in values() {
        let _ = write!(
            drawn,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"><title>{}: {}</title></circle>",
            x(variant.numbers[key]),
            y(value),
            Escaped(&variant.name),
            number(value)
        );
    }
    for value in [low, high] {
        let _ = write!(
            drawn,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 4.0,
            y(value) + 3.5,
            number(value)
        );
    }
    // Names of values that would cover one another are left out, but for the ends.
    let mut free = f64::NEG_INFINITY;
    for (rank, value) in order.iter().enumerate() {
        let name = &over.values[*value];
        let shown: String =
            if name.chars().count() > 12 { name.chars().take(11).chain(['…']).collect() } else { name.clone() };
        let half = shown.chars().count() as f64 * 3.0;
        let last = order[order.len() - 1];
        let is_end = rank == 0 || *value == last;
        if !is_end && (x(*value) - half < free || x(*value) + half > x(last) - 16.0) {
            continue;
        }
        free = x(*value) + half + 4.0;
        let _ = write!(
            drawn,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            // Whole, also at the edges.
            x(*value).clamp(half, PLOT[0] - half),
            BOTTOM + 14.0,
            Escaped(&shown)
        );
    }
    format!(
        "<figure><figcaption><b>{}</b>{}</figcaption><svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{} over {}\">{drawn}</svg>\
         </figure>\n",
        Escaped(measure.title),
        Escaped(&unit(measure)),
        PLOT[0],
        PLOT[1],
        Escaped(measure.title),
        Escaped(&over.key)
    )
}

/// The file itself, if browsers play such files; it is not read before somebody wants to see it.
fn video(variant: &Looked) -> String {
    if !PLAYED.iter().any(|container| variant.file.ends_with(&format!(".{container}"))) {
        return String::new();
    }
    let poster = variant.pictures.first().map(|picture| format!(" poster=\"{}\"", jpeg(picture)));
    format!(
        "<video controls loop muted playsinline preload=\"none\" src=\"{}\"{} aria-label=\"{}\"></video>",
        Escaped(&address(&variant.file)),
        poster.unwrap_or_default(),
        Escaped(&variant.name)
    )
}

/// Frames of each variant, those of the same place one below the other.
fn sheet(made: &[&Looked]) -> String {
    let mut text = "<h2>Contact sheet</h2>\n<p>From the first frame to the last, in equal steps.</p>\n".to_string();
    for variant in made {
        let _ = write!(text, "<figure class=\"sheet\"><figcaption><b>{}</b></figcaption><div>", label(&variant.name));
        text += &video(variant);
        let last = variant.pictures.len().saturating_sub(1);
        let count = IN_SHEET.min(variant.pictures.len());
        for step in 0..count {
            text += &image(&variant.pictures[last * step / (count - 1).max(1)], &variant.name);
        }
        text += "</div></figure>\n";
    }
    text
}

/// The decimals that numbers up to `most` need for three digits that count.
fn decimals(most: f64) -> usize {
    match most.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    }
}

/// The decimals of a measure's values: shares, which are near to one another, have four.
fn decimals_of(made: &[&Looked], measure: &Measure) -> usize {
    let values = made.iter().filter_map(|variant| variant.metrics.get(measure.name));
    if measure.unit.is_empty() { 4 } else { decimals(values.fold(0.0, |most: f64, value| most.max(value.abs()))) }
}

/// A number with its sign, if it has one when it is rounded.
fn signed(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let is_zero = text.chars().all(|c| "0.".contains(c));
    format!(
        "{}{text}",
        if is_zero {
            ""
        } else if value < 0.0 {
            "−"
        } else {
            "+"
        }
    )
}

/// Bytes in base 64 (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        for digit in 0..4 {
            let is_there = digit <= three.len();
            text.push(if is_there { char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_are_shown() {
        assert_eq!(
            Escaped("<a href=\"x\">'&'</a>").to_string(),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;"
        );
        assert_eq!([1234.5, 12.34, 1.5, -0.12345].map(decimals), [0, 1, 2, 3]);
        assert_eq!([signed(0.5, 1), signed(-3.0, 0), signed(-0.04, 1), signed(0.0, 0)], ["+0.5", "−3", "0.0", "0"]);
        assert_eq!([&b""[..], b"f", b"fo", b"foo", b"foob"].map(base64), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
        assert_eq!(address("fps=25_2,a/b #1.mp4"), "./fps=25_2,a/b%20%231.mp4");
    }

    #[test]
    fn a_change_is_better_or_worse() {
        let measure = |better| Measure { name: "x", title: "X", unit: "px", better, about: "" };
        let gain = |better, low: f64, high: f64| {
            let change = Change { low, high, change: high - low, percent: Some((high - low) / low * 100.0) };
            gain(&measure(better), &change)
        };
        assert_eq!(gain(Better::Higher, 1.0, 1.25), 0.5);
        assert_eq!(gain(Better::Lower, 1.0, 9.0), -1.0);
        assert_eq!(gain(Better::One, 0.75, 1.25), 0.0);
        assert!(gain(Better::One, 0.5, 0.75) > 0.0 && gain(Better::One, 1.0, 1.5) < 0.0);
        assert_eq!(gain(Better::Neither, 1.0, 2.0), 0.0);
        let share = Measure { unit: "", ..measure(Better::Higher) };
        let change = Change { low: 0.96, high: 0.97, change: 0.01, percent: Some(1.04) };
        assert!((super::gain(&share, &change) - 0.5).abs() < 1e-9);
    }
}
