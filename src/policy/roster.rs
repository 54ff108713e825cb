//! Who carries what in a cluster, and who is next: the limits, the balance and the session's earlier attempts
//! put together. Every count of a cluster changes here and nowhere else.

use fastrand::Rng;

use super::balance::{Balancer, Candidate, Policy};
use super::limits::{Full, Load, Settings as Limits};
use super::retry::Plan;

/// The endpoints of a cluster by their place, with what they carry.
#[derive(Debug)]
pub struct Roster {
    limits: Limits,
    balancer: Balancer,
    weights: Vec<u32>,
    total: Load,
    loads: Vec<Load>,
}

impl Roster {
    /// One endpoint per weight, nothing carried yet.
    #[must_use]
    pub fn new(policy: Policy, limits: Limits, weights: Vec<u32>) -> Self {
        let endpoints = weights.len();
        let balancer = Balancer::new(policy, endpoints);
        Self { limits, balancer, weights, total: Load::default(), loads: vec![Load::default(); endpoints] }
    }

    /// All that the cluster carries.
    #[must_use]
    pub const fn total(&self) -> Load {
        self.total
    }

    /// What each endpoint carries.
    #[must_use]
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// The endpoints that have room for one dial more.
    #[must_use]
    pub fn with_room(&self) -> Vec<usize> {
        (0..self.loads.len()).filter(|index| self.limits.endpoint_has_room(self.loads[*index])).collect()
    }

    /// Picks among the endpoints with room one of those that this session tried least often, and counts the dial
    /// on it. It ends in [`Roster::established`] or [`Roster::abandoned`].
    ///
    /// # Errors
    /// The cap that leaves no room.
    pub fn begin(&mut self, plan: &mut Plan, rng: &mut Rng) -> Result<usize, Full> {
        self.limits.admit(self.total)?;
        let candidate =
            |index: usize| Candidate { index, weight: self.weights[index], load: self.loads[index].total() };
        let candidates: Vec<_> = plan.next_of(&self.with_room()).into_iter().map(candidate).collect();
        let full = Full::Endpoints(self.limits.max_connections_per_endpoint);
        let picked = self.balancer.pick(&candidates, rng).ok_or(full)?;
        self.reserve(plan, picked);
        Ok(picked)
    }

    /// [`Roster::begin`] where the choice is made already: the caller wants that endpoint and no other. The caps do not
    /// count: it is there to cancel, which makes room.
    pub fn begin_at(&mut self, endpoint: usize, plan: &mut Plan) {
        self.reserve(plan, endpoint);
    }

    fn reserve(&mut self, plan: &mut Plan, endpoint: usize) {
        plan.begin(endpoint);
        self.total.dials += 1;
        self.loads[endpoint].dials += 1;
    }

    /// A dial became a session.
    pub fn established(&mut self, endpoint: usize) {
        self.abandoned(endpoint);
        self.total.sessions += 1;
        self.loads[endpoint].sessions += 1;
    }

    /// A dial came to nothing.
    pub fn abandoned(&mut self, endpoint: usize) {
        self.total.dials -= 1;
        self.loads[endpoint].dials -= 1;
    }

    /// A session ended.
    pub fn ended(&mut self, endpoint: usize) {
        self.total.sessions -= 1;
        self.loads[endpoint].sessions -= 1;
    }
}
