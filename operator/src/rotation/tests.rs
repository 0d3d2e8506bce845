use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::{
    Ca, Client, ClientSecret, Facts, Leaf, Lives, Nodes, PROPAGATION_SECONDS, Phase, Pod, Seen, Trust, Write, decide,
};

const PODS: usize = 3;
const CLIENTS: usize = 3;
/// This one connects whenever it likes, and its files follow its Secret as late as those of a mounted Secret may.
const IDLE: usize = 2;
/// A client in use connects anew at least this often.
const CONNECTION: i64 = 100;
const LIVES: Lives = Lives {
    leaf: 100_000,
    leaf_renew_before: 30_000,
    ca_renew_before: 300_000,
    ca_by_others: false,
    connection: CONNECTION,
    for_ever: false,
};
const CA_LIFE: i64 = 1_000_000;

type Bundle = BTreeSet<String>;

#[derive(Clone, Debug, PartialEq)]
struct CaSecret {
    current: Ca,
    old: Vec<Ca>,
    handled: Option<String>,
    leaves_after: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct NodesSecret {
    bundle: Bundle,
    leaves: BTreeMap<String, Leaf>,
}

#[derive(Clone, Debug, PartialEq)]
struct ClientFiles {
    bundle: Bundle,
    leaf: Leaf,
    since: i64,
}

/// An object of the API server: whoever writes it must have seen its last version.
#[derive(Clone, Debug)]
struct Object<T> {
    content: Option<T>,
    version: u64,
}

impl<T> Object<T> {
    fn write(&mut self, content: T, seen: u64) -> bool {
        let is_current = self.version == seen;
        if is_current {
            self.content = Some(content);
            self.version += 1;
        }
        is_current
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// What it has loaded: bundle and leaf.
    bundle: Bundle,
    leaf: Option<Leaf>,
    /// By client and serial: issuer, whether a session stands, and when it was last seen.
    seen: BTreeMap<(usize, String), (String, bool, i64)>,
    is_up: bool,
    since: i64,
    has_kubelet: bool,
}

#[derive(Clone, Debug, Default)]
struct Application {
    files: Option<ClientFiles>,
    reloads: bool,
    /// What was written to its Secret, and when, and has not come to it yet.
    on_their_way: Vec<(i64, ClientFiles)>,
}

/// A cluster with its operator's Secrets, its kubelets and its clients.
#[derive(Clone, Debug)]
struct World {
    now: i64,
    made: u64,
    ca: Object<CaSecret>,
    nodes: Object<NodesSecret>,
    clients: Vec<Object<ClientFiles>>,
    pods: Vec<Node>,
    applications: Vec<Application>,
    request: Option<String>,
    /// What another operator saw before it hung.
    hung: Option<(Facts, [u64; 2], Vec<u64>, CaSecretSeen)>,
    failures: Vec<String>,
}

type CaSecretSeen = Option<CaSecret>;

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    /// The operator looks, decides and writes, and is killed after so many writes.
    Operator(usize),
    /// Another operator looks and hangs; it writes what it then decided when it hangs the second time.
    Hangs,
    Kubelet(usize),
    StopKubelet(usize, bool),
    /// A pod goes, or comes back with what is in the Secret then.
    Pod(usize, bool),
    Reload(usize),
    Connect(usize),
    Reloads(usize, bool),
    Wait(i64),
    RotateCa,
    RotateLeaves,
    LoseSecret,
    LoseKey,
}

fn event() -> impl Strategy<Value = Event> {
    let pod = 0..PODS;
    let client = 0..CLIENTS;
    prop_oneof![
        8 => (0_usize..6).prop_map(Event::Operator),
        1 => any::<bool>().prop_map(|_| Event::Hangs),
        6 => pod.clone().prop_map(Event::Kubelet),
        1 => (pod.clone(), any::<bool>()).prop_map(|(pod, runs)| Event::StopKubelet(pod, runs)),
        1 => (pod, any::<bool>()).prop_map(|(pod, up)| Event::Pod(pod, up)),
        4 => client.clone().prop_map(Event::Reload),
        4 => client.clone().prop_map(Event::Connect),
        1 => (client, any::<bool>()).prop_map(|(client, reloads)| Event::Reloads(client, reloads)),
        4 => (1_i64..400).prop_map(Event::Wait),
        1 => any::<bool>().prop_map(|_| Event::RotateCa),
        1 => any::<bool>().prop_map(|_| Event::RotateLeaves),
        1 => any::<bool>().prop_map(|_| Event::LoseSecret),
        1 => any::<bool>().prop_map(|_| Event::LoseKey),
    ]
}

fn pod_name(pod: usize) -> String {
    format!("demo-{pod}")
}

fn called(bundle: &Bundle) -> String {
    bundle.iter().cloned().collect::<Vec<_>>().join("+")
}

impl World {
    fn new() -> World {
        let nothing = || Object { content: None, version: 0 };
        let mut world = World {
            now: 1_000,
            made: 0,
            ca: Object { content: None, version: 0 },
            nodes: Object { content: None, version: 0 },
            clients: (0..CLIENTS).map(|_| nothing()).collect(),
            pods: (0..PODS).map(|_| Node { is_up: true, has_kubelet: true, ..Node::default() }).collect(),
            applications: (0..CLIENTS).map(|_| Application { reloads: true, ..Application::default() }).collect(),
            request: None,
            hung: None,
            failures: Vec::new(),
        };
        world.settle(20);
        world
    }

    fn trusted(ca: &CaSecret) -> Bundle {
        std::iter::once(&ca.current).chain(&ca.old).map(|ca| ca.id.clone()).collect()
    }

    fn facts(&self) -> Facts {
        let trust = self.ca.content.as_ref().map(|ca| Trust {
            current: ca.current.clone(),
            old: ca.old.clone(),
            bundle: called(&World::trusted(ca)),
            handled: ca.handled.clone(),
            leaves_after: ca.leaves_after,
        });
        let known = self.ca.content.as_ref().map(World::trusted).unwrap_or_default();
        let as_known =
            |leaf: &Leaf| Leaf { issuer: leaf.issuer.clone().filter(|id| known.contains(id)), ..leaf.clone() };
        let nodes = self.nodes.content.as_ref();
        Facts {
            now: self.now,
            lives: LIVES,
            trust,
            nodes: Nodes {
                bundle: nodes.map(|nodes| called(&nodes.bundle)),
                has_identities: true,
                leaves: nodes
                    .map(|nodes| nodes.leaves.iter().map(|(name, leaf)| (name.clone(), as_known(leaf))).collect())
                    .unwrap_or_default(),
            },
            members: (0..PODS).map(pod_name).collect(),
            pods: self
                .pods
                .iter()
                .enumerate()
                .filter(|(_, pod)| pod.is_up)
                .map(|(n, pod)| pod.told(n, self.now))
                .collect(),
            clients: self
                .clients
                .iter()
                .enumerate()
                .map(|(number, secret)| Client {
                    name: format!("client-{number}"),
                    identity: format!("identity-{number}"),
                    secret: secret.content.as_ref().map_or(ClientSecret::Missing, |files| ClientSecret::Ours {
                        bundle: called(&files.bundle),
                        leaf: as_known(&files.leaf),
                        since: files.since,
                    }),
                })
                .collect(),
            has_strangers: false,
            request: self.request.clone(),
        }
    }

    fn versions(&self) -> ([u64; 2], Vec<u64>) {
        ([self.ca.version, self.nodes.version], self.clients.iter().map(|client| client.version).collect())
    }

    fn leaf(&mut self, issuer: &str) -> Leaf {
        self.made += 1;
        Leaf {
            serial: format!("leaf-{}", self.made),
            issuer: Some(issuer.to_owned()),
            made_at: self.now,
            not_after: self.now + LIVES.leaf,
            names_fit: true,
        }
    }

    fn ca(&self, has_key: bool) -> Ca {
        Ca { id: format!("ca-{}", self.made), made_at: self.now, not_after: self.now + CA_LIFE, has_key }
    }

    /// Writes up to `limit` of what is decided on `facts`; every write is refused where its object changed meanwhile.
    fn operate(&mut self, facts: &Facts, seen: &CaSecretSeen, versions: ([u64; 2], Vec<u64>), limit: usize) {
        let ([ca_version, nodes_version], client_versions) = versions;
        for write in decide(facts).writes.into_iter().take(limit) {
            match write {
                Write::NewCa { handled, forget } => {
                    self.made += 1;
                    let current = self.ca(true);
                    let (mut old, leaves_after) = match seen {
                        Some(ca) => {
                            (std::iter::once(ca.current.clone()).chain(ca.old.clone()).collect(), ca.leaves_after)
                        }
                        None => (Vec::new(), 0),
                    };
                    // Without the CA's Secret, what is trusted is known from the nodes'.
                    let trusted = self.nodes.content.as_ref().map(|nodes| nodes.bundle.clone()).unwrap_or_default();
                    for id in trusted.into_iter().filter(|_| seen.is_none()) {
                        old.push(Ca { id, ..self.ca(false) });
                    }
                    old.retain(|ca: &Ca| !forget.contains(&ca.id));
                    self.ca.write(CaSecret { current, old, handled, leaves_after }, ca_version);
                }
                Write::ReplaceLeaves { handled } => {
                    let ca = seen.clone().unwrap();
                    self.ca.write(CaSecret { handled: Some(handled), leaves_after: self.now, ..ca }, ca_version);
                }
                Write::DropOld => {
                    let ca = seen.clone().unwrap();
                    self.ca.write(CaSecret { old: Vec::new(), ..ca }, ca_version);
                }
                Write::Nodes { issue } => {
                    let mut nodes = self.nodes.content.clone().unwrap_or_default();
                    nodes.bundle = World::trusted(seen.as_ref().unwrap());
                    for (pod, issuer) in issue {
                        let leaf = self.leaf(&issuer);
                        nodes.leaves.insert(pod, leaf);
                    }
                    self.nodes.write(nodes, nodes_version);
                }
                Write::Client { name, issuer } => {
                    let number: usize = name.strip_prefix("client-").unwrap().parse().unwrap();
                    let (bundle, leaf) = (World::trusted(seen.as_ref().unwrap()), self.leaf(&issuer));
                    let known = self.clients[number].content.as_ref();
                    let same = known.filter(|known| known.bundle == bundle && known.leaf.issuer == leaf.issuer);
                    let since = same.map_or(self.now, |known| known.since);
                    let files = ClientFiles { bundle, leaf, since };
                    if self.clients[number].write(files.clone(), client_versions[number]) {
                        self.applications[number].on_their_way.push((self.now, files));
                    }
                }
            }
        }
    }

    fn connect(&mut self, client: usize) {
        let Some(files) = self.applications[client].files.clone() else { return };
        let issuer = files.leaf.issuer.clone().unwrap();
        for (number, pod) in self.pods.iter_mut().enumerate().filter(|(_, pod)| pod.is_up) {
            let Some(leaf) = &pod.leaf else { continue };
            let node_trusted = leaf.issuer.as_ref().is_some_and(|id| files.bundle.contains(id));
            if !node_trusted || !pod.bundle.contains(&issuer) {
                self.failures
                    .push(format!("client {client} with {files:?} and pod {number} with {leaf:?} {:?}", pod.bundle));
            }
            for ((_, _), entry) in pod.seen.iter_mut().filter(|((other, _), _)| *other == client) {
                entry.1 = false;
            }
            pod.seen.insert((client, files.leaf.serial.clone()), (issuer.clone(), true, self.now));
        }
    }

    /// Applications in use connect anew before their connections are too old.
    fn wait(&mut self, seconds: i64) {
        let end = self.now + seconds;
        while self.now < end {
            self.now = end.min(self.now + CONNECTION / 2);
            self.deliver();
            (0..CLIENTS).filter(|client| *client != IDLE).for_each(|client| self.connect(client));
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let idle = &mut self.applications[IDLE];
        let (come, coming) = idle.on_their_way.drain(..).partition(|(written, _)| written + PROPAGATION_SECONDS <= now);
        idle.on_their_way = coming;
        let come: Vec<(i64, ClientFiles)> = come;
        idle.files = come.into_iter().next_back().map(|(_, files)| files).or(idle.files.take());
    }

    fn mount(&mut self, pod: usize) {
        let Some(nodes) = &self.nodes.content else { return };
        let pod_leaf = nodes.leaves.get(&pod_name(pod)).cloned();
        let node = &mut self.pods[pod];
        if node.is_up && node.has_kubelet && pod_leaf.is_some() {
            node.bundle = nodes.bundle.clone();
            node.leaf = pod_leaf;
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Operator(writes) => {
                let (facts, seen, versions) = (self.facts(), self.ca.content.clone(), self.versions());
                self.operate(&facts, &seen, versions, writes);
            }
            Event::Hangs => match self.hung.take() {
                Some((facts, ca_and_nodes, clients, seen)) => {
                    self.operate(&facts, &seen, (ca_and_nodes, clients), usize::MAX);
                }
                None => {
                    let (ca_and_nodes, clients) = self.versions();
                    self.hung = Some((self.facts(), ca_and_nodes, clients, self.ca.content.clone()));
                }
            },
            Event::Kubelet(pod) => self.mount(pod),
            Event::StopKubelet(pod, runs) => self.pods[pod].has_kubelet = runs,
            Event::Pod(pod, up) => {
                if up && !self.pods[pod].is_up {
                    self.pods[pod] = Node { is_up: true, has_kubelet: true, since: self.now, ..Node::default() };
                    self.mount(pod);
                } else if !up {
                    self.pods[pod].is_up = false;
                }
            }
            Event::Reload(client) => {
                if self.applications[client].reloads && self.clients[client].content.is_some() {
                    self.applications[client].files = self.clients[client].content.clone();
                    self.applications[client].on_their_way.clear();
                    self.connect(client);
                }
            }
            Event::Connect(client) => self.connect(client),
            Event::Reloads(client, reloads) => self.applications[client].reloads = reloads,
            Event::Wait(seconds) => self.wait(seconds),
            Event::RotateCa => self.request = Some(format!("ca@{}", self.made)),
            Event::RotateLeaves => self.request = Some(format!("leaf@{}", self.made)),
            // A second loss before the first is healed would take the only record of the CAs with it.
            Event::LoseSecret if self.nodes.content.is_some() && self.bundle_is_distributed() => {
                self.ca = Object { content: None, version: self.ca.version + 1 };
            }
            Event::LoseSecret => {}
            Event::LoseKey => {
                if let Some(ca) = &mut self.ca.content {
                    ca.current.has_key = false;
                    self.ca.version += 1;
                }
            }
        }
    }

    fn bundle_is_distributed(&self) -> bool {
        match (&self.ca.content, &self.nodes.content) {
            (Some(ca), Some(nodes)) => World::trusted(ca) == nodes.bundle,
            _ => false,
        }
    }

    /// Everybody does what they ought to, for so many rounds.
    fn settle(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.happen(&Event::Operator(usize::MAX));
            (0..PODS).for_each(|pod| self.mount(pod));
            (0..CLIENTS).for_each(|client| self.happen(&Event::Reload(client)));
            self.wait(CONNECTION + 1);
        }
    }
}

impl Node {
    fn told(&self, number: usize, now: i64) -> Pod {
        Pod {
            name: pod_name(number),
            counts: true,
            bundle: Some(called(&self.bundle)),
            served: self.leaf.as_ref().map(|leaf| leaf.serial.clone()),
            up: now - self.since,
            seen: self
                .seen
                .iter()
                .map(|((client, serial), (issuer, stands, last))| Seen {
                    identity: format!("identity-{client}"),
                    serial: serial.clone(),
                    issuer: issuer.clone(),
                    sessions: u64::from(*stands),
                    last: *last,
                })
                .collect(),
        }
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 1000, max_shrink_iters: 20_000, ..Default::default() })]

    #[test]
    fn whatever_happens_no_handshake_fails_and_it_ends(events in proptest::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        prop_assert_eq!(decide(&world.facts()).phase, Phase::Current);
        for event in &events {
            world.happen(event);
            prop_assert!(world.failures.is_empty(), "after {event:?}: {:?}", world.failures);
        }
        // From here on everybody reloads and every kubelet runs.
        world.applications.iter_mut().for_each(|application| application.reloads = true);
        for pod in 0..PODS {
            world.happen(&Event::StopKubelet(pod, true));
            world.happen(&Event::Pod(pod, true));
        }
        world.settle(60);
        prop_assert!(world.failures.is_empty(), "{:?}", world.failures);
        let plan = decide(&world.facts());
        prop_assert_eq!(&plan.phase, &Phase::Current, "{:?} {:?}", plan, world);
        prop_assert!(plan.writes.is_empty() && plan.waits_for.is_empty(), "{plan:?}");
        let ca = world.ca.content.clone().unwrap();
        let only = BTreeSet::from([ca.current.id]);
        for pod in &world.pods {
            prop_assert_eq!(&pod.bundle, &only);
        }
    }
}

#[test]
fn an_idle_client_is_given_the_time_that_a_kubelet_takes() {
    let mut world = World::new();
    world.applications[IDLE].on_their_way.clear();
    world.pods.iter_mut().for_each(|pod| pod.seen.retain(|(client, _), _| *client != IDLE));
    world.happen(&Event::RotateCa);
    let begun = world.now;
    while decide(&world.facts()).phase != Phase::MovingNodes {
        assert!(world.now < begun + 10 * PROPAGATION_SECONDS, "{:?}", decide(&world.facts()));
        world.happen(&Event::Operator(usize::MAX));
        (0..PODS).for_each(|pod| world.mount(pod));
        (0..CLIENTS).filter(|client| *client != IDLE).for_each(|client| world.happen(&Event::Reload(client)));
        world.wait(10);
    }
    assert!(world.now >= begun + PROPAGATION_SECONDS, "it moved on after {} s", world.now - begun);
    world.connect(IDLE);
    assert!(world.failures.is_empty(), "{:?}", world.failures);
}

#[test]
fn where_connections_last_for_ever_it_is_said() {
    let mut world = World::new();
    world.happen(&Event::Reloads(0, false));
    world.happen(&Event::RotateCa);
    world.settle(3);
    let mut facts = world.facts();
    let waits = |facts: &Facts| decide(facts).waits_for.join("; ");
    assert!(waits(&facts).contains("client-0") && !waits(&facts).contains("maxConnectionAge"), "{}", waits(&facts));
    facts.lives.for_ever = true;
    assert!(waits(&facts).contains("maxConnectionAge is 0s"), "{}", waits(&facts));
}

#[test]
fn strangers_are_given_the_time_too() {
    let mut world = World::new();
    world.happen(&Event::RotateCa);
    (0..4).for_each(|_| world.happen(&Event::Operator(usize::MAX)));
    let mut facts = world.facts();
    // Whoever is known has what is current; of strangers nobody knows.
    let (bundle, leaves) = (facts.trust.clone().unwrap().bundle, facts.nodes.leaves.clone());
    for pod in &mut facts.pods {
        pod.bundle = Some(bundle.clone());
        pod.served = leaves.get(&pod.name).map(|leaf| leaf.serial.clone());
        pod.seen.clear();
    }
    facts.clients.clear();
    assert_eq!(decide(&facts).phase, Phase::MovingNodes);
    facts.has_strangers = true;
    assert_eq!(decide(&facts).phase, Phase::Distributing);
    facts.now += PROPAGATION_SECONDS;
    assert_eq!(decide(&facts).phase, Phase::MovingNodes);
}
