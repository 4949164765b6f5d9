//! torch's CPU generator.

use scumble::engine::diffusion::noise::TorchNoise;
use serde_json::Value;

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn near(name: &str, ours: &[f32], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((f64::from(*a) - b).abs() <= tolerance, "{name}, value {i}: {a} and {b}");
    }
}

fn check(name: &str, values: &[f32], draw: &Value, tolerance: f64) {
    let size = draw["size"].as_u64().unwrap() as usize;
    assert_eq!(values.len(), size);
    if draw["values"].is_array() {
        near(name, values, &numbers(&draw["values"]), tolerance);
    } else {
        let (first, last) = (numbers(&draw["first"]), numbers(&draw["last"]));
        near(name, &values[..first.len()], &first, tolerance);
        near(name, &values[size - last.len()..], &last, tolerance);
    }
    let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
    let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
    let bound = 1e-6 * size.max(1) as f64 * 4.0;
    assert!((sum - draw["sum"].as_f64().unwrap()).abs() <= bound, "{name}: sum {sum}");
    assert!((squares - draw["squares"].as_f64().unwrap()).abs() <= bound * 4.0, "{name}: squares {squares}");
}

#[test]
fn draws_equal_torch() {
    let json = super::json("noise.json");
    let tolerance = json["tolerance"].as_f64().unwrap() * 2.0;
    let draws = json["draws"].as_array().unwrap();
    assert!(draws.len() > 20);
    for draw in draws {
        let (seed, size) = (draw["seed"].as_u64().unwrap(), draw["size"].as_u64().unwrap() as usize);
        check(&format!("seed {seed} size {size}"), &TorchNoise::new(seed).normal(size), draw, tolerance);
    }
    for sequence in json["sequences"].as_array().unwrap() {
        let seed = sequence["seed"].as_u64().unwrap();
        let mut generator = TorchNoise::new(seed);
        for (i, draw) in sequence["draws"].as_array().unwrap().iter().enumerate() {
            let size = draw["size"].as_u64().unwrap() as usize;
            check(&format!("seed {seed} draw {i} size {size}"), &generator.normal(size), draw, tolerance);
        }
    }
}
