//! Hooks: how a caller reads and changes what happens inside a network.
//!
//! Every network call takes `&mut Hooks`. A *site* is a place in the network, named by its diffusers module path
//! (`down_blocks.1.attentions.0.transformer_blocks.0.attn2`). At an attention site a hook may read or replace the
//! queries, keys and values, and the probabilities after the softmax; at an activation site it may read (graph kept),
//! replace or add. A hook is told which role each batch row plays. Where no hook wants anything, the fused path runs:
//! a hook costs only at its own sites.

use std::rc::Rc;

use candle_core::Tensor;

use super::unet::Merge;
use crate::engine::error::{Error, Result};
use crate::engine::observe::Cancel;
use crate::engine::tape::Tape;

/// The role of one row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The row without (or with the negative) prompt.
    Unconditional,
    /// The row with the prompt.
    Conditional,
    /// The row of a source picture, whose attention others may copy.
    Source,
    /// The row of an edit.
    Edit,
}

/// What a site computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// Attention from pixels to the prompt.
    CrossAttention,
    /// Attention among pixels (or among tokens, in CLIP).
    SelfAttention,
    /// An activation `[n, c, h, w]`.
    Activation,
}

/// A place in a network that hooks can reach.
#[derive(Clone, Debug)]
pub struct Site {
    /// The diffusers module path.
    pub path: String,
    /// What is computed there.
    pub kind: SiteKind,
    /// CompVis numbering, `input 4`, `middle 1`, `output 8`, where the site has one.
    pub alias: Option<String>,
    /// Attention heads (0 for an activation).
    pub heads: usize,
    /// Channels of the activation, or width of queries.
    pub channels: usize,
}

impl Site {
    /// Whether `name` means this site: its path, or its CompVis alias (activations only).
    pub fn is_named(&self, name: &str) -> bool {
        self.path == name || self.alias.as_deref() == Some(name)
    }

    /// Whether `name` means this site or a part of the network that it lies in: "up_blocks.1", "mid_block".
    pub fn is_in(&self, name: &str) -> bool {
        self.is_named(name) || self.path.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// Reads or changes attention. Tensors keep their graph.
pub trait AttentionHook {
    /// Whether the probabilities at `site` are wanted, given the number of query and key positions.
    /// Saying yes makes the site materialize `[rows, heads, queries, keys]`.
    fn wants_probs(&self, site: &Site, queries: usize, keys: usize) -> bool;

    /// Whether queries, keys and values at `site` are wanted.
    fn wants_qkv(&self, _site: &Site) -> bool {
        false
    }

    /// Sees `q [rows, n, c]`, `k` and `v [rows, m, c]`; may return others of the same shapes.
    fn on_qkv(&mut self, _site: &Site, _rows: &[Row], _qkv: [&Tensor; 3]) -> Result<Option<[Tensor; 3]>> {
        Ok(None)
    }

    /// Sees the probabilities after the softmax, `[rows, heads, queries, keys]`; may return others of that shape.
    fn on_probs(&mut self, site: &Site, rows: &[Row], probs: &Tensor) -> Result<Option<Tensor>>;
}

/// Reads or changes an activation. Tensors keep their graph.
pub trait ActivationHook {
    /// Whether the activation at `site` is wanted.
    fn wants(&self, site: &Site) -> bool;

    /// Sees the activation `[rows, c, h, w]`; may return one of the same shape to go on with.
    fn on_activation(&mut self, site: &Site, rows: &[Row], x: &Tensor) -> Result<Option<Tensor>>;
}

/// Hooks of the caller's own for a call of a model, beside the edits that are values.
#[derive(Default)]
pub struct Extra<'a> {
    /// On attention, in order.
    pub attention: Vec<Box<dyn AttentionHook + 'a>>,
    /// On activations, in order.
    pub activation: Vec<Box<dyn ActivationHook + 'a>>,
}

/// The hooks of one network call.
#[derive(Default)]
pub struct Hooks<'a> {
    rows: Vec<Row>,
    attention: Vec<&'a mut dyn AttentionHook>,
    activation: Vec<&'a mut dyn ActivationHook>,
    cancel: Option<Cancel>,
    tape: Option<Rc<Tape>>,
    merge: Option<Merge>,
}

impl<'a> Hooks<'a> {
    /// No hooks; every row conditional.
    pub fn none() -> Self {
        Self::default()
    }

    /// No hooks yet; `rows[i]` is the role of batch row `i`.
    pub fn for_rows(rows: Vec<Row>) -> Self {
        Hooks { rows, ..Self::default() }
    }

    /// Adds an attention hook. Hooks run in the order they were added, each on what the one before left.
    pub fn with_attention(mut self, hook: &'a mut dyn AttentionHook) -> Self {
        self.attention.push(hook);
        self
    }

    /// Adds an activation hook.
    pub fn with_activation(mut self, hook: &'a mut dyn ActivationHook) -> Self {
        self.activation.push(hook);
        self
    }

    /// Stops the call between blocks once `cancel` is set.
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Has blocks computed again on the way back, so that their graphs never lie in memory together.
    pub fn with_tape(mut self, tape: Option<Rc<Tape>>) -> Self {
        self.tape = tape;
        self
    }

    /// The tape for a block with these sites, whose queries and keys number at most so many, if there is one. A block that
    /// a hook looks into runs once, with its graph: the hook sees it once, and what it keeps stays part of the gradient.
    pub fn tape_for(&self, sites: &[&Site], (queries, keys): (usize, usize)) -> Option<Rc<Tape>> {
        let seen = |site: &Site| {
            self.activation.iter().any(|h| h.wants(site))
                || self.attention.iter().any(|h| h.wants_qkv(site))
                || (site.kind != SiteKind::Activation && self.wants_probs(site, queries, keys))
        };
        // What is computed again knows no merging.
        self.tape.as_ref().filter(|_| self.merge.is_none() && !sites.iter().any(|s| seen(s))).map(Rc::clone)
    }

    /// Merges tokens in self-attention, except at sites whose attention a hook wants: those see every token.
    pub fn with_merge(mut self, merge: Option<Merge>) -> Self {
        self.merge = merge;
        self
    }

    /// What self-attention at `site` among `tokens` merges, if anything.
    pub fn merging(&self, site: &Site, tokens: usize) -> Option<Merge> {
        self.merge.filter(|_| !self.wants(site, tokens, tokens))
    }

    /// Whether any hook wants what happens at `site`; queries and keys count where it is attention.
    pub fn wants(&self, site: &Site, queries: usize, keys: usize) -> bool {
        match site.kind {
            SiteKind::Activation => self.activation.iter().any(|h| h.wants(site)),
            _ => self.attention.iter().any(|h| h.wants_qkv(site)) || self.wants_probs(site, queries, keys),
        }
    }

    /// The roles of the batch rows (empty: all conditional).
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// An error of kind `Cancelled` once a stop was asked for. Networks call this between blocks.
    pub fn check_cancel(&self, op: &str) -> Result<()> {
        self.cancel.as_ref().map_or(Ok(()), |c| c.check(op))
    }

    /// Whether any hook wants the probabilities at this site.
    pub fn wants_probs(&self, site: &Site, queries: usize, keys: usize) -> bool {
        self.attention.iter().any(|h| h.wants_probs(site, queries, keys))
    }

    /// Passes queries, keys and values through the hooks that want them.
    pub fn qkv(&mut self, site: &Site, q: Tensor, k: Tensor, v: Tensor) -> Result<[Tensor; 3]> {
        let mut qkv = [q, k, v];
        for hook in self.attention.iter_mut().filter(|h| h.wants_qkv(site)) {
            if let Some(new) = hook.on_qkv(site, &self.rows, [&qkv[0], &qkv[1], &qkv[2]])? {
                for (old, new) in qkv.iter().zip(&new) {
                    same_dims(site, old, new)?;
                }
                qkv = new;
            }
        }
        Ok(qkv)
    }

    /// Passes probabilities through the hooks that want them.
    pub fn probs(&mut self, site: &Site, mut probs: Tensor) -> Result<Tensor> {
        let (queries, keys) = (probs.dim(2)?, probs.dim(3)?);
        for hook in self.attention.iter_mut().filter(|h| h.wants_probs(site, queries, keys)) {
            if let Some(new) = hook.on_probs(site, &self.rows, &probs)? {
                same_dims(site, &probs, &new)?;
                probs = new;
            }
        }
        Ok(probs)
    }

    /// Passes an activation through the hooks that want it.
    pub fn activation(&mut self, site: &Site, mut x: Tensor) -> Result<Tensor> {
        for hook in self.activation.iter_mut().filter(|h| h.wants(site)) {
            if let Some(new) = hook.on_activation(site, &self.rows, &x)? {
                same_dims(site, &x, &new)?;
                x = new;
            }
        }
        Ok(x)
    }
}

fn same_dims(site: &Site, old: &Tensor, new: &Tensor) -> Result<()> {
    if old.dims() == new.dims() {
        return Ok(());
    }
    Err(Error::shape(&site.path, "a hook must return a tensor of the shape it was given")
        .expected(format!("{:?}", old.dims()))
        .got(format!("{:?}", new.dims())))
}

/// Collects activations at named sites, graph kept (latent guidance predictors, feature injection).
#[derive(Debug, Default)]
pub struct Features {
    names: Vec<String>,
    found: Vec<Option<Tensor>>,
}

impl Features {
    /// Collects at `names` (diffusers paths or CompVis aliases), in this order.
    pub fn new(names: &[String]) -> Self {
        Features { names: names.to_vec(), found: vec![None; names.len()] }
    }

    /// What was collected, in the order of the names. Errors: a name that is no site of the network.
    pub fn take(self) -> Result<Vec<Tensor>> {
        let Features { names, found } = self;
        names
            .into_iter()
            .zip(found)
            .map(|(name, x)| {
                x.ok_or_else(|| {
                    Error::missing("features", format!("the network has no activation site \"{name}\""))
                        .hint("m.sites() lists them")
                })
            })
            .collect()
    }
}

impl ActivationHook for Features {
    fn wants(&self, site: &Site) -> bool {
        self.names.iter().any(|n| site.is_named(n))
    }

    fn on_activation(&mut self, site: &Site, _rows: &[Row], x: &Tensor) -> Result<Option<Tensor>> {
        for (name, slot) in self.names.iter().zip(&mut self.found) {
            if site.is_named(name) {
                *slot = Some(x.clone());
            }
        }
        Ok(None)
    }
}
