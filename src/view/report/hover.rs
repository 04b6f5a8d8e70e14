//! What the page's script shows under the pointer.

use serde_json::{Value, json};

use crate::view::plot::{Drawn, Figure};

/// Places of panels and values of curves, as JSON that may stand in a script.
pub fn data(figure: &Figure, drawn: &Drawn) -> String {
    let panels = figure.panels.iter().zip(&drawn.places).map(|(panel, place)| {
        let curves = panel.curves.iter().map(|curve| {
            let points: Vec<Value> = curve.pieces.iter().flatten().map(point).collect();
            let held: Vec<Value> = curve.held_out.iter().map(point).collect();
            json!({"run": curve.run, "points": points, "held": held})
        });
        json!({
            "title": panel.title, "percent": panel.percent, "log": panel.axis.log,
            "low": panel.axis.low, "high": panel.axis.high,
            "x": place.x, "y": place.y, "width": place.width, "height": place.height,
            "curves": curves.collect::<Vec<_>>(),
        })
    });
    let data = json!({
        "width": drawn.width,
        "across": figure.across.high, "times": figure.across.times, "label": figure.across_label, "runs": figure.runs,
        "held": figure.language.of("held-out text", "学習に使わないテキスト"),
        "panels": panels.collect::<Vec<_>>(),
    });
    // Nothing in it ends the script, or is markup to who reads the page as XML.
    data.to_string().replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// With digits enough to be shown.
fn point(&(x, y): &(f64, f64)) -> Value {
    let brief = |value: f64| format!("{value:.5e}").parse().unwrap_or(value);
    json!([brief(x), brief(y)])
}
