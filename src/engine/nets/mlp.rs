//! A small perceptron on rows: linear layers with ReLU and batch normalization after each hidden one.
//!
//! The latent guidance predictor of sketch-guided diffusion (Voynov, Aberman, Cohen-Or 2022, section 4) is one. A value:
//! training makes new ones. Layers begin as torch's `nn.Linear` does (uniform in ±1/sqrt(inputs)) and normalization is that of
//! `nn.BatchNorm1d` (eps 1e-5, momentum 0.1): in training by the batch, afterwards by running means and variances.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};

use crate::engine::diffusion::noise::Rng;
use crate::engine::error::{Error, Result};
use crate::engine::weights::read::TensorFile;
use crate::engine::weights::write;

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;
/// Layers, at most.
const MOST: usize = 64;
/// Weights, at most.
const MOST_WEIGHTS: usize = 1 << 28;
const FORMAT: &str = "scumble mlp 1";

/// Running means and variances of the hidden layers, in order.
pub type Running = Vec<(Tensor, Tensor)>;

/// A perceptron. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mlp {
    widths: Vec<usize>,
    /// By name, as torch would call them in a list of blocks: `0.weight`, `0.bias`, `0.norm.weight`, `0.norm.bias`, ...
    params: Vec<(String, Tensor)>,
    running: Running,
    batch_norm: bool,
    training: bool,
    half: bool,
    about: BTreeMap<String, String>,
    /// Where running values of a training step are kept.
    seen: Option<Rc<RefCell<Running>>>,
}

impl Mlp {
    /// New weights, drawn from the seed. `widths`: inputs, hidden layers, outputs. Errors: fewer than two, a 0, too many.
    pub fn new(widths: &[usize], batch_norm: bool, seed: u64) -> Result<Self> {
        check(widths)?;
        let mut params = Vec::new();
        let mut running = Running::new();
        let last = widths.len() - 2;
        for (i, pair) in widths.windows(2).enumerate() {
            let [from, to] = *pair else { continue };
            let bound = 1.0 / (from as f64).sqrt();
            // Uniform numbers from normal ones, by their distribution function: the noise generators give those.
            let draw = |n: usize, part: usize| -> Vec<f32> {
                let normal = Rng::Philox.draw(seed, 2 * i + part, n);
                normal
                    .into_iter()
                    .map(|v| ((2.0 * normal_share(f64::from(v)) - 1.0) * bound) as f32)
                    .collect()
            };
            params.push((
                format!("{i}.weight"),
                Tensor::from_vec(draw(from * to, 0), (to, from), &Device::Cpu)?,
            ));
            params.push((format!("{i}.bias"), Tensor::from_vec(draw(to, 1), to, &Device::Cpu)?));
            if batch_norm && i < last {
                let (zero, one) = (
                    Tensor::zeros(to, DType::F32, &Device::Cpu)?,
                    Tensor::ones(to, DType::F32, &Device::Cpu)?,
                );
                params.push((format!("{i}.norm.weight"), one.clone()));
                params.push((format!("{i}.norm.bias"), zero.clone()));
                running.push((zero, one));
            }
        }
        let (training, half) = (true, false);
        Ok(Mlp {
            widths: widths.to_vec(),
            params,
            running,
            batch_norm,
            training,
            half,
            about: BTreeMap::new(),
            seen: None,
        })
    }

    /// Inputs, hidden layers, outputs.
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// Whether batches are normalized by themselves.
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// The same, in training or in use.
    pub fn training(self, training: bool) -> Self {
        Mlp { training, ..self }
    }

    /// What is trained, by name.
    pub fn params(&self) -> &[(String, Tensor)] {
        &self.params
    }

    /// The same with other values, in the order of [`Mlp::params`]. Errors: another number or shape.
    pub fn with_params(&self, values: &[Tensor]) -> Result<Self> {
        if values.len() != self.params.len() {
            return Err(Error::shape("mlp", "there must be one value per weight")
                .expected(self.params.len().to_string())
                .got(values.len().to_string()));
        }
        let mut params = Vec::with_capacity(values.len());
        for ((name, old), new) in self.params.iter().zip(values) {
            if old.dims() != new.dims() {
                return Err(Error::shape("mlp", format!("{name} has another shape"))
                    .expected(format!("{:?}", old.dims()))
                    .got(format!("{:?}", new.dims())));
            }
            params.push((name.clone(), new.clone()));
        }
        Ok(Mlp { params, ..self.clone() })
    }

    /// What is known of it: what it was trained for.
    pub fn about(&self) -> &BTreeMap<String, String> {
        &self.about
    }

    /// The same with more that is known of it.
    pub fn with_about(mut self, more: BTreeMap<String, String>) -> Self {
        self.about.extend(more);
        self
    }

    /// Whether any weight carries the graph of a gradient.
    pub fn is_tracked(&self) -> bool {
        self.params.iter().any(|(_, t)| t.track_op())
    }

    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.params.iter().map(|(_, t)| t.elem_count() * 4).sum()
    }

    /// Numbers that are trained.
    pub fn count(&self) -> usize {
        self.params.iter().map(|(_, t)| t.elem_count()).sum()
    }

    /// Keeps what its runs in training see in `cell`, beginning with its own running values.
    pub fn watched(&self) -> (Self, Rc<RefCell<Running>>) {
        let cell = Rc::new(RefCell::new(self.running.clone()));
        (Mlp { seen: Some(Rc::clone(&cell)), ..self.clone() }, cell)
    }

    /// The same with the running values that were kept.
    pub fn with_running(&self, cell: &Rc<RefCell<Running>>) -> Self {
        Mlp { running: cell.borrow().clone(), seen: None, ..self.clone() }
    }

    /// Running means and variances of the hidden layers.
    pub fn running(&self) -> &[(Tensor, Tensor)] {
        &self.running
    }

    /// The same by name, as they stand in its file: `0.norm.running_mean`, `0.norm.running_var`, ...
    pub fn statistics(&self) -> Vec<(String, Tensor)> {
        let each = self.running.iter().enumerate();
        each.flat_map(|(i, (mean, var))| {
            [(format!("{i}.norm.running_mean"), mean.clone()), (format!("{i}.norm.running_var"), var.clone())]
        })
        .collect()
    }

    /// The same network with other running values, in the order of [`Mlp::statistics`]. Errors: another number.
    pub fn with_statistics(&self, values: &[(String, Tensor)]) -> Result<Self> {
        if values.len() != 2 * self.running.len() {
            return Err(Error::shape("mlp", "there must be a running mean and variance per hidden layer")
                .expected((2 * self.running.len()).to_string())
                .got(values.len().to_string()));
        }
        let pair = |pair: &[(String, Tensor)]| match pair {
            [(_, mean), (_, var)] => Some((mean.clone(), var.clone())),
            _ => None,
        };
        Ok(Mlp { running: values.chunks_exact(2).filter_map(pair).collect(), ..self.clone() })
    }

    /// Sixteen hexadecimal digits of all its values: FNV-1a over their bits.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (_, t) in self.params.iter().chain(&self.statistics()) {
            for v in t.flatten_all()?.to_vec1::<f32>()? {
                hash = (hash ^ u64::from(v.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        Ok(format!("{hash:016x}"))
    }

    /// Rows `[n, inputs]` → `[n, outputs]`, with gradients to rows and weights. Errors: another shape; in training a single row.
    pub fn run(&self, x: &Tensor) -> Result<Tensor> {
        let inputs = self.widths.first().copied().unwrap_or(0);
        if x.rank() != 2 || x.dim(1)? != inputs || x.dim(0)? == 0 {
            return Err(Error::shape("run", "the rows do not fit this network")
                .expected(format!("[rows, {inputs}]"))
                .got(format!("{:?}", x.dims())));
        }
        if self.training && self.batch_norm && !self.running.is_empty() && x.dim(0)? < 2 {
            return Err(Error::shape(
                "run",
                "in training a batch needs two rows: it is normalized by itself",
            )
            .hint("net.inference() uses the running means"));
        }
        // It was made in main memory; the rows may lie on a GPU.
        let mut params = self.params.iter().map(|(_, t)| t.to_device(x.device()));
        let mut next = || -> Result<Tensor> {
            Ok(params.next().ok_or_else(|| Error::value("run", "a weight is missing"))??)
        };
        let mut x = x.to_dtype(DType::F32)?.contiguous()?;
        let layers = self.widths.len() - 1;
        for i in 0..layers {
            x = x.matmul(&next()?.t()?)?.broadcast_add(&next()?)?;
            if i + 1 == layers {
                break;
            }
            x = x.relu()?;
            if self.batch_norm {
                x = self.normalized(i, &x, &next()?, &next()?)?;
            }
        }
        Ok(x)
    }

    fn normalized(&self, i: usize, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let missing = || Error::value("run", "a running mean is missing");
        let (mean, var) = if self.training {
            let mean = x.mean_keepdim(0)?;
            let var = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim(0)?;
            if let Some(cell) = &self.seen {
                let n = x.dim(0)? as f64;
                let unbiased = var.detach().squeeze(0)?.affine(n / (n - 1.0), 0.0)?;
                let mut all = cell.borrow_mut();
                let old = all.get_mut(i).ok_or_else(missing)?;
                let here = |new: &Tensor, old: &Tensor| new.to_device(old.device());
                old.0 = moved(&old.0, &here(&mean.detach().squeeze(0)?, &old.0)?)?;
                old.1 = moved(&old.1, &here(&unbiased, &old.1)?)?;
            }
            (mean, var)
        } else {
            let (mean, var) = self.running.get(i).ok_or_else(missing)?;
            (mean.to_device(x.device())?.unsqueeze(0)?, var.to_device(x.device())?.unsqueeze(0)?)
        };
        let scale = var.affine(1.0, EPS)?.sqrt()?.recip()?;
        Ok(x.broadcast_sub(&mean)?.broadcast_mul(&scale)?.broadcast_mul(weight)?.broadcast_add(bias)?)
    }

    /// The same with weights in half precision, in which it is saved, too.
    pub fn half(&self) -> Result<Self> {
        let round =
            |t: &Tensor| -> Result<Tensor> { Ok(t.detach().to_dtype(DType::F16)?.to_dtype(DType::F32)?) };
        let params = self.params.iter().map(|(n, t)| Ok((n.clone(), round(t)?))).collect::<Result<_>>()?;
        Ok(Mlp { params, half: true, ..self.clone() })
    }

    /// As the bytes of a safetensors file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for (name, t) in &self.params {
            all.push((name.clone(), if self.half { t.to_dtype(DType::F16)? } else { t.clone() }));
        }
        all.extend(self.statistics());
        let mut about = self.about.clone();
        about.insert("format".into(), FORMAT.into());
        about.insert("widths".into(), serde_json::json!(self.widths).to_string());
        about.insert("batch_norm".into(), self.batch_norm.to_string());
        write::encode(all.iter().map(|(n, t)| (n.as_str(), t)), &about)
    }

    /// From such a file, ready for use. Errors: another file, weights that are missing or have other shapes.
    pub fn decode(file: &TensorFile) -> Result<Self> {
        let bad = |what: String| {
            Error::value("load_mlp", format!("{}: {what}", file.origin()))
                .hint("save(net, path) writes such a file")
        };
        let text = file.metadata();
        if text.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(bad("this is no Mlp".into()));
        }
        let widths: Vec<usize> = text
            .get("widths")
            .and_then(|w| serde_json::from_str(w).ok())
            .ok_or_else(|| bad("its widths cannot be read".into()))?;
        let batch_norm = text.get("batch_norm").is_some_and(|b| b == "true");
        // The file's shapes come before memory for what it claims.
        let first = file.dims("0.weight").map(<[usize]>::to_vec);
        if widths.len() < 2 || first.as_deref() != Some(&[widths[1], widths[0]][..]) {
            return Err(bad("its weights do not have the widths that it names".into()));
        }
        check(&widths)?;
        let read = |name: &str, dims: &[usize]| -> Result<Tensor> {
            match file.read(name, DType::F32, &Device::Cpu)? {
                Some(t) if t.dims() == dims => Ok(t),
                Some(t) => {
                    Err(bad(format!("{name} has the shape {:?}", t.dims())).expected(format!("{dims:?}")))
                }
                None => Err(bad(format!("{name} is missing"))),
            }
        };
        let mut net = Mlp::new(&widths, batch_norm, 0)?;
        for (name, t) in &mut net.params {
            *t = read(name, t.dims())?;
        }
        for (i, (mean, var)) in net.running.iter_mut().enumerate() {
            *mean = read(&format!("{i}.norm.running_mean"), mean.dims())?;
            *var = read(&format!("{i}.norm.running_var"), var.dims())?;
        }
        let ours = ["format", "widths", "batch_norm"];
        net.about = text
            .iter()
            .filter(|(k, _)| !ours.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        Ok(net.training(false))
    }
}

fn moved(old: &Tensor, new: &Tensor) -> Result<Tensor> {
    Ok((old.affine(1.0 - MOMENTUM, 0.0)? + new.affine(MOMENTUM, 0.0)?)?)
}

fn check(widths: &[usize]) -> Result<()> {
    let weights = widths
        .windows(2)
        .try_fold(0usize, |n, w| w.iter().try_fold(1usize, |a, b| a.checked_mul(*b))?.checked_add(n));
    let fits = weights.is_some_and(|n| n <= MOST_WEIGHTS);
    if (2..=MOST).contains(&widths.len()) && widths.iter().all(|w| *w > 0) && fits {
        return Ok(());
    }
    Err(Error::value("mlp", "there is no network of these widths")
        .expected(format!(
            "inputs, hidden layers, outputs: 2 to {MOST} numbers from 1 on, at most {MOST_WEIGHTS} weights"
        ))
        .got(format!("{widths:?}")))
}

/// The distribution function of the standard normal distribution (Abramowitz and Stegun 26.2.17, to 1e-7).
fn normal_share(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let series = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = series * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x < 0.0 { tail } else { 1.0 - tail }
}
