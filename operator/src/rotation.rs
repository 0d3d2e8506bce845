//! Who holds which certificate: a pure function of what is declared and what was observed.
//!
//! A CA is replaced in four steps, each of which begins when the one before it was *seen* to be over: (1) everybody gets a
//! bundle with the new CA beside the old; (2) the nodes' leaves come from the new CA, one pod at a time; (3) the clients'
//! do; (4) the old CA is dropped. A client's Secret gets a new leaf in the same write as a new bundle, so a client that is
//! seen with that leaf is known to have the bundle: this is the one thing that makes (2) safe, because a node cannot see
//! whom its clients trust. No step is on record: it follows from the Secrets, the pods' reports and the clock, so whoever
//! leads next goes on where the last one was killed.
//!
//! Where the old CA's key is lost, nothing can be issued from it any more. The clients' leaves then come from the new CA in
//! step 1 already, after every pod has shown the new bundle, and a leaf that is missing is issued in step 2.

use std::collections::{BTreeMap, BTreeSet};

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Unix time.
    pub now: i64,
    pub lives: Lives,
    /// What the CA's Secret says; `None` where it is missing or cannot be read.
    pub trust: Option<Trust>,
    pub nodes: Nodes,
    /// Pods that are to have a leaf: those that there are and those that there will be.
    pub members: Vec<String>,
    pub pods: Vec<Pod>,
    pub clients: Vec<Client>,
    /// There may be clients without a certificate, of whom nobody knows what they trust.
    pub has_strangers: bool,
    /// `leaf@…` or `ca@…`, as someone asked for it.
    pub request: Option<String>,
}

/// How long things live, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    pub leaf: i64,
    pub leaf_renew_before: i64,
    pub ca_renew_before: i64,
    /// Somebody else makes the CAs, when they think it right.
    pub ca_by_others: bool,
    /// A client that is in use connects anew within this time.
    pub connection: i64,
    /// Nodes close no connection for its age: it ends when its client likes.
    pub for_ever: bool,
}

/// The CAs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The newest.
    pub current: Ca,
    /// Those that are on their way out; none while nothing rotates.
    pub old: Vec<Ca>,
    /// What all of them together are called.
    pub bundle: String,
    /// The last request that was taken up.
    pub handled: Option<String>,
    /// Leaves that were made before this are to be replaced.
    pub leaves_after: i64,
}

/// A CA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ca {
    /// The digits of its public key.
    pub id: String,
    pub made_at: i64,
    pub not_after: i64,
    /// Its key is at hand.
    pub has_key: bool,
}

/// The nodes' Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// What its bundle is called; `None` without the Secret.
    pub bundle: Option<String>,
    /// The list of those who are let in is as it ought to be.
    pub has_identities: bool,
    /// By pod.
    pub leaves: BTreeMap<String, Leaf>,
}

/// A leaf in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    pub serial: String,
    /// The trusted CA that issued it; `None` where none did.
    pub issuer: Option<String>,
    pub made_at: i64,
    pub not_after: i64,
    /// It names whom it ought to name.
    pub names_fit: bool,
}

/// A pod, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    /// It is ready or it answers: clients may reach it. One that is neither starts with what is current then.
    pub counts: bool,
    /// What it calls its bundle; `None` where it was not heard.
    pub bundle: Option<String>,
    /// The serial that it serves.
    pub served: Option<String>,
    /// For how many seconds it has served.
    pub up: i64,
    pub seen: Vec<Seen>,
}

/// A client's leaf that a pod has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub identity: String,
    pub serial: String,
    pub issuer: String,
    pub sessions: u64,
    pub last: i64,
}

/// A declared client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    pub name: String,
    pub identity: String,
    pub secret: ClientSecret,
}

/// A client's Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientSecret {
    #[default]
    Missing,
    /// Somebody else's: never written.
    Foreign,
    Ours {
        bundle: String,
        leaf: Leaf,
        /// When it first had a leaf of this issuer beside this bundle.
        since: i64,
    },
}

/// What is to be written now, and what is being waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub phase: Phase,
    pub writes: Vec<Write>,
    /// Pods that serve something else than their Secret holds: their mounts are to be refreshed.
    pub stale: Vec<String>,
    /// In words, whom the phase waits for.
    pub waits_for: Vec<String>,
    /// What will fail, and when, unless someone looks after it.
    pub at_risk: Option<String>,
}

/// A write of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new CA; the present ones become old, but for those that are named: nobody has anything of theirs.
    NewCa { handled: Option<String>, forget: Vec<String> },
    /// Leaves that were made before now are to be replaced.
    ReplaceLeaves { handled: String },
    /// The old CAs are forgotten.
    DropOld,
    /// The nodes' Secret with the present bundle, and new leaves for these pods, each from the CA that is named.
    Nodes { issue: BTreeMap<String, String> },
    /// A client's Secret with the present bundle and a new leaf.
    Client { name: String, issuer: String },
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no CA yet, or its key is lost.
    Founding,
    /// Nothing rotates.
    Current,
    Distributing,
    MovingNodes,
    MovingClients,
    Retiring,
}

impl Phase {
    /// As the status shows it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Founding => "Founding",
            Phase::Current => "Current",
            Phase::Distributing => "DistributingBundle",
            Phase::MovingNodes => "ReissuingNodes",
            Phase::MovingClients => "ReissuingClients",
            Phase::Retiring => "RetiringOldCA",
        }
    }
}

/// CAs that are trusted at once, at most: a key that is lost again and again must not fill the bundle.
pub const MOST_OLD: usize = 7;

/// A leaf is not replaced by one that ends hardly later: its CA is about to end.
const LEAST_GAIN_SHARE: i64 = 10;

/// How long a kubelet may take to bring a changed Secret or ConfigMap to those who mount it. So long a client that nobody has seen
/// is given to have what its Secret holds.
pub const PROPAGATION_SECONDS: i64 = 120;

/// How many names a list in a message has.
const NAMED: usize = 5;

/// Decides what to write next.
pub fn decide(facts: &Facts) -> Plan {
    let Some(trust) = &facts.trust else {
        return Plan::only(Phase::Founding, Write::NewCa { handled: None, forget: Vec::new() });
    };
    let round = Round { facts, trust };
    let phase = round.phase();
    if let Some(write) = round.authority_write(phase) {
        return Plan { at_risk: round.at_risk(), ..Plan::only(phase, write) };
    }
    let mut writes: Vec<Write> = round.nodes_write().into_iter().collect();
    writes.extend(facts.clients.iter().filter_map(|client| round.client_write(client)));
    Plan { phase, writes, stale: round.stale(), waits_for: round.waits_for(phase), at_risk: round.at_risk() }
}

impl Plan {
    fn only(phase: Phase, write: Write) -> Plan {
        Plan { phase, writes: vec![write], stale: Vec::new(), waits_for: Vec::new(), at_risk: None }
    }
}

struct Round<'a> {
    facts: &'a Facts,
    trust: &'a Trust,
}

impl<'a> Round<'a> {
    fn rotates(&self) -> bool {
        !self.trust.old.is_empty()
    }

    fn phase(&self) -> Phase {
        let current = |leaf: &Leaf| leaf.issuer.as_ref() == Some(&self.trust.current.id);
        if !self.trust.current.has_key {
            Phase::Founding
        } else if !self.rotates() {
            Phase::Current
        } else if !self.nodes_moved() {
            let begun = self.facts.nodes.leaves.values().any(current);
            if begun || self.may_move_nodes() { Phase::MovingNodes } else { Phase::Distributing }
        } else if self.clients_moved() {
            Phase::Retiring
        } else {
            Phase::MovingClients
        }
    }

    /// What is to be done about the CAs themselves, before anything else.
    fn authority_write(&self, phase: Phase) -> Option<Write> {
        let Trust { current, old, handled, .. } = self.trust;
        let now = self.facts.now;
        let request = self.facts.request.as_ref().filter(|request| Some(*request) != handled.as_ref());
        if !current.has_key || current.not_after <= now {
            // Only where there is no room for another: an operator that hangs may still issue from one that nobody uses yet.
            let forget = if old.len() < MOST_OLD { Vec::new() } else { self.unused_cas() };
            let kept = old.len() + 1 - forget.len();
            return (kept <= MOST_OLD).then(|| Write::NewCa { handled: handled.clone(), forget });
        }
        if let Some(request) = request.filter(|request| request.starts_with("leaf@")) {
            return Some(Write::ReplaceLeaves { handled: request.clone() });
        }
        match phase {
            Phase::Current => {
                if let Some(request) = request.filter(|request| request.starts_with("ca@")) {
                    return Some(Write::NewCa { handled: Some(request.clone()), forget: Vec::new() });
                }
                let due = current.not_after - self.facts.lives.ca_renew_before <= now;
                (due && !self.facts.lives.ca_by_others)
                    .then(|| Write::NewCa { handled: handled.clone(), forget: Vec::new() })
            }
            Phase::Retiring if self.on_old_ca().is_empty() => Some(Write::DropOld),
            _ => None,
        }
    }

    /// CAs that can issue no more and that nobody stands on: their keys were lost before they were used.
    fn unused_cas(&self) -> Vec<String> {
        let of_clients = self.facts.clients.iter().filter_map(|client| match &client.secret {
            ClientSecret::Ours { leaf, .. } => leaf.issuer.as_ref(),
            ClientSecret::Missing | ClientSecret::Foreign => None,
        });
        let of_nodes = self.facts.nodes.leaves.values().filter_map(|leaf| leaf.issuer.as_ref());
        let issuers: BTreeSet<&String> = of_clients.chain(of_nodes).collect();
        let seen = |ca: &Ca| self.used_of(|issuer| issuer == ca.id);
        let all = std::iter::once(&self.trust.current).chain(&self.trust.old);
        let unused = all.filter(|ca| !ca.has_key && !issuers.contains(&ca.id) && seen(ca).is_empty());
        let served = self.unconfirmed().is_empty();
        unused.filter(|_| served).map(|ca| ca.id.clone()).collect()
    }

    fn waited_for(&self) -> impl Iterator<Item = &'a Pod> {
        self.facts.pods.iter().filter(|pod| pod.counts)
    }

    /// Pods that do not trust all of the present bundle yet.
    fn without_bundle(&self) -> Vec<&'a str> {
        let lacks = |pod: &&Pod| pod.bundle.as_ref() != Some(&self.trust.bundle);
        self.waited_for().filter(lacks).map(|pod| pod.name.as_str()).collect()
    }

    /// Pods that do not serve the leaf that their Secret holds.
    fn unconfirmed(&self) -> Vec<&'a str> {
        let serves_another = |pod: &&Pod| {
            self.facts.nodes.leaves.get(&pod.name).is_some_and(|leaf| pod.served.as_ref() != Some(&leaf.serial))
        };
        self.waited_for().filter(serves_another).map(|pod| pod.name.as_str()).collect()
    }

    fn stale(&self) -> Vec<String> {
        let names: BTreeSet<&str> = self.without_bundle().into_iter().chain(self.unconfirmed()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// What pods have seen of a client.
    fn seen(&self, identity: &'a str) -> impl Iterator<Item = &'a Seen> {
        let all = self.facts.pods.iter().flat_map(|pod| &pod.seen);
        all.filter(move |seen| seen.identity == identity)
    }

    /// Whether a leaf was used lately by someone who may use it again. A client that has been seen with its newest leaf
    /// has reloaded, and what runs beside it with an older one connects anew within the life of a connection; of one that
    /// was never seen with it, it is not known that it has gone until the older leaf ends.
    fn is_used(&self, seen: &Seen, has_reloaded: bool) -> bool {
        let Lives { leaf, connection, .. } = self.facts.lives;
        let memory = if has_reloaded { connection } else { leaf };
        seen.sessions > 0 || seen.last > self.facts.now - memory
    }

    /// Whether there is a pod that would know of every client in use: what a pod has seen is gone with it, and whoever is in
    /// use comes back to its successor within the life of a connection.
    fn is_witnessed(&self) -> bool {
        self.waited_for().any(|pod| pod.bundle.is_some() && pod.up >= self.facts.lives.connection)
    }

    /// Whether it is not known what a client that nobody has seen has. It may be idle, and then its files follow within a while;
    /// without a witness it may be in use, and then what it had before has to end.
    fn is_in_the_dark(&self, since: i64) -> bool {
        let patience = if self.is_witnessed() { PROPAGATION_SECONDS } else { self.facts.lives.leaf };
        since + patience > self.facts.now
    }

    fn has_reloaded(&self, identity: &'a str, newest: Option<&String>) -> bool {
        self.seen(identity).any(|seen| newest == Some(&seen.serial))
    }

    /// Clients that were not seen to have taken what their Secrets hold.
    fn lagging_clients(&self) -> Vec<&'a str> {
        let lags = |client: &&'a Client| {
            let newest = match &client.secret {
                ClientSecret::Ours { bundle, leaf, since } if *bundle == self.trust.bundle => Some((leaf, *since)),
                ClientSecret::Ours { .. } => return true,
                ClientSecret::Missing | ClientSecret::Foreign => None,
            };
            let serial = newest.map(|(leaf, _)| &leaf.serial);
            let has_reloaded = self.has_reloaded(&client.identity, serial);
            let mut older = self.seen(&client.identity).filter(|seen| serial != Some(&seen.serial));
            let in_the_dark = !has_reloaded && newest.is_some_and(|(_, since)| self.is_in_the_dark(since));
            in_the_dark || older.any(|seen| self.is_used(seen, has_reloaded))
        };
        self.facts.clients.iter().filter(lags).map(|client| client.name.as_str()).collect()
    }

    /// Step 1 is over.
    fn may_move_nodes(&self) -> bool {
        let is_known_to_strangers = self.trust.current.made_at + PROPAGATION_SECONDS <= self.facts.now;
        (is_known_to_strangers || !self.facts.has_strangers)
            && self.facts.nodes.bundle.as_ref() == Some(&self.trust.bundle)
            && self.without_bundle().is_empty()
            && self.lagging_clients().is_empty()
    }

    /// Step 2 is over.
    fn nodes_moved(&self) -> bool {
        let moved = |name: &String| {
            let leaf = self.facts.nodes.leaves.get(name);
            leaf.is_some_and(|leaf| leaf.issuer.as_ref() == Some(&self.trust.current.id))
        };
        self.facts.members.iter().all(moved) && self.without_bundle().is_empty() && self.unconfirmed().is_empty()
    }

    /// Step 3 is over, as far as the Secrets go.
    fn clients_moved(&self) -> bool {
        self.facts.clients.iter().all(|client| match &client.secret {
            ClientSecret::Foreign => true,
            ClientSecret::Missing => false,
            ClientSecret::Ours { bundle, leaf, .. } => {
                leaf.issuer.as_ref() == Some(&self.trust.current.id) && *bundle == self.trust.bundle
            }
        })
    }

    /// Identities that stand on an old CA, or were there lately.
    fn on_old_ca(&self) -> Vec<&'a str> {
        let in_the_dark = self.facts.clients.iter().filter(|client| match &client.secret {
            ClientSecret::Ours { leaf, since, .. } => {
                !self.has_reloaded(&client.identity, Some(&leaf.serial)) && self.is_in_the_dark(*since)
            }
            ClientSecret::Missing | ClientSecret::Foreign => false,
        });
        let mut names = self.used_of(|issuer| self.trust.old.iter().any(|ca| ca.id == issuer));
        names.extend(in_the_dark.map(|client| client.identity.as_str()));
        names
    }

    /// Identities with leaves of such issuers that are used, or were lately.
    fn used_of(&self, is_of: impl Fn(&str) -> bool) -> Vec<&'a str> {
        // One that is not declared is not let in any more: what it has is closed, and it is not waited for.
        let has_reloaded = |identity: &'a str| {
            let client = self.facts.clients.iter().find(|client| client.identity == identity);
            client.is_none_or(|client| match &client.secret {
                ClientSecret::Ours { leaf, .. } => self.has_reloaded(identity, Some(&leaf.serial)),
                ClientSecret::Missing | ClientSecret::Foreign => false,
            })
        };
        let all = self.facts.pods.iter().flat_map(|pod| &pod.seen);
        let of = all.filter(|seen| is_of(&seen.issuer));
        let used = of.filter(|seen| self.is_used(seen, has_reloaded(&seen.identity)));
        let names: BTreeSet<&str> = used.map(|seen| seen.identity.as_str()).collect();
        names.into_iter().collect()
    }

    /// The old CA that can still issue.
    fn old_issuer(&self) -> Option<&'a Ca> {
        self.trust.old.iter().find(|ca| ca.has_key && ca.not_after > self.facts.now)
    }

    fn node_issuer(&self, leaf: Option<&Leaf>) -> Option<&'a Ca> {
        let current = &self.trust.current;
        let is_moved = leaf.is_some_and(|leaf| leaf.issuer.as_ref() == Some(&current.id));
        let from_current = !self.rotates() || is_moved || self.may_move_nodes();
        if from_current { Some(current).filter(|ca| ca.has_key) } else { self.old_issuer() }
    }

    fn client_issuer(&self) -> Option<&'a Ca> {
        let current = Some(&self.trust.current).filter(|ca| ca.has_key);
        if !self.rotates() || self.nodes_moved() {
            return current;
        }
        self.old_issuer().or_else(|| current.filter(|_| self.without_bundle().is_empty()))
    }

    /// Whether a leaf is to be replaced by one from `issuer`.
    fn is_due(&self, holder: &str, leaf: &Leaf, issuer: &Ca) -> bool {
        let Facts { now, lives, .. } = self.facts;
        let Lives { leaf: life, leaf_renew_before, .. } = *lives;
        let gain = issuer.not_after.min(now + life) - leaf.not_after;
        // Up to a tenth earlier, by name, so that what was issued together is not renewed together for ever.
        let early = leaf_renew_before / 10 * i64::from(holder.bytes().fold(0_u8, u8::wrapping_add)) / 255;
        let ends_soon = leaf.not_after - leaf_renew_before - early <= *now;
        let trusted = leaf.issuer.is_some();
        !trusted
            || !leaf.names_fit
            || leaf.made_at < self.trust.leaves_after
            || (ends_soon && gain >= life / LEAST_GAIN_SHARE)
    }

    fn nodes_write(&self) -> Option<Write> {
        let Facts { nodes, members, .. } = self.facts;
        let mut issue = BTreeMap::new();
        let mut free = self.unconfirmed().is_empty();
        for name in members {
            let leaf = nodes.leaves.get(name);
            let Some(issuer) = self.node_issuer(leaf) else { continue };
            let Some(leaf) = leaf else {
                issue.insert(name.clone(), issuer.id.clone());
                continue;
            };
            let moves = leaf.issuer.as_ref() != Some(&issuer.id) && issuer.id == self.trust.current.id;
            if !moves && !self.is_due(name, leaf, issuer) {
                continue;
            }
            // One at a time, so that a bad leaf harms one pod: but for pods that nobody can reach, and for leaves that
            // would end while a pod before them does not confirm its own.
            let waited_for = self.waited_for().any(|pod| pod.name == *name);
            let ends = leaf.not_after - self.facts.now < self.facts.lives.leaf_renew_before / 2;
            if !waited_for || free || ends {
                free &= !waited_for;
                issue.insert(name.clone(), issuer.id.clone());
            }
        }
        let fits = nodes.bundle.as_ref() == Some(&self.trust.bundle) && nodes.has_identities;
        let surplus = nodes.leaves.keys().any(|name| !members.contains(name));
        (!fits || surplus || !issue.is_empty()).then_some(Write::Nodes { issue })
    }

    fn client_write(&self, client: &Client) -> Option<Write> {
        let issuer = self.client_issuer();
        let write = |ca: &Ca| Write::Client { name: client.name.clone(), issuer: ca.id.clone() };
        let ClientSecret::Ours { bundle, leaf, .. } = &client.secret else {
            return if client.secret == ClientSecret::Foreign { None } else { issuer.map(write) };
        };
        let current = &self.trust.current;
        let is_moved = leaf.issuer.as_ref() == Some(&current.id);
        let issuer = if is_moved { current } else { issuer? };
        let moves = leaf.issuer.as_ref() != Some(&issuer.id) && issuer.id == current.id;
        (*bundle != self.trust.bundle || moves || self.is_due(&client.name, leaf, issuer)).then(|| write(issuer))
    }

    fn waits_for(&self, phase: Phase) -> Vec<String> {
        let mut waits = Vec::new();
        let mut named = |what: &str, names: Vec<&str>| {
            if !names.is_empty() {
                waits.push(format!("{what} {}", list(&names)));
            }
        };
        named("the present trust bundle in", self.without_bundle());
        named("the certificate in its Secret to be served by", self.unconfirmed());
        match phase {
            Phase::Distributing | Phase::MovingNodes => {
                named("its new certificate to be used by client", self.lagging_clients());
            }
            Phase::Retiring => named("no connection by the old CA's certificate of", self.on_old_ca()),
            Phase::Founding => waits.push(format!("one of {} trusted CAs to be dropped", self.trust.old.len() + 1)),
            Phase::Current | Phase::MovingClients => {}
        }
        let by_clients = matches!(phase, Phase::Distributing | Phase::MovingNodes | Phase::Retiring);
        if self.facts.lives.for_ever && by_clients && !waits.is_empty() {
            waits.push(
                "clients to connect anew: spec.tls.maxConnectionAge is 0s, so that no node makes them".to_owned(),
            );
        }
        waits
    }

    /// What ends before it is replaced, if things go on like this.
    fn at_risk(&self) -> Option<String> {
        let Facts { now, lives, nodes, clients, .. } = self.facts;
        let cas = if self.rotates() { self.trust.old.iter().collect() } else { vec![&self.trust.current] };
        let ending = cas.iter().map(|ca| ca.not_after).filter(|end| end - now < lives.ca_renew_before / 2).min();
        if let Some(end) = ending {
            return Some(format!("a CA that is still in use ends {}", when(end - now)));
        }
        let of_clients = clients.iter().filter_map(|client| match &client.secret {
            ClientSecret::Ours { leaf, .. } => Some((&client.name, leaf)),
            ClientSecret::Missing | ClientSecret::Foreign => None,
        });
        let leaves = nodes.leaves.iter().filter(|(name, _)| self.facts.members.contains(name)).chain(of_clients);
        let soon = leaves.filter(|(_, leaf)| leaf.not_after - now < lives.leaf_renew_before / 2);
        let first = soon.min_by_key(|(_, leaf)| leaf.not_after)?;
        Some(format!("the certificate of {} ends {}", first.0, when(first.1.not_after - now)))
    }
}

fn when(seconds: i64) -> String {
    let span = |seconds: i64| config::Duration(std::time::Duration::from_secs(seconds.unsigned_abs()));
    if seconds < 0 { format!("since {} ago", span(seconds)) } else { format!("in {}", span(seconds)) }
}

/// Names in a message: a few, and the number of the rest.
pub fn list(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named = names[..names.len() - more].join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

#[cfg(test)]
mod tests;
