//! The state tree: actors with code, state root, nonce and balance, and the table of their addresses.
//! A tree is a value: a copy is cheap (a private network has a few dozen actors), so every tipset
//! keeps the tree before and after it, and a failed message is undone by going back to a copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use cid::Cid;
use fil_actors_shared::v18::{
    BURNT_FUNDS_ACTOR_ID, CRON_ACTOR_ID, DATACAP_TOKEN_ACTOR_ID, EAM_ACTOR_ID, INIT_ACTOR_ID, Map, REWARD_ACTOR_ID,
    STORAGE_MARKET_ACTOR_ID, STORAGE_POWER_ACTOR_ID, SYSTEM_ACTOR_ID, VERIFIED_REGISTRY_ACTOR_ID, make_empty_map,
};
use fvm_ipld_encoding::tuple::*;
use fvm_shared::ActorID;
use fvm_shared::address::{Address, Payload};
use fvm_shared::econ::TokenAmount;
use serde::de::DeserializeOwned;

use crate::store::Store;

/// First id of an actor that is neither built in nor part of the genesis allocation.
pub const FIRST_NEW_ID: ActorID = 1000;
/// Width of the state tree's HAMT, as in Lotus.
const TREE_BIT_WIDTH: u32 = 5;
/// Version of the state root structure.
const STATE_ROOT_VERSION: u64 = 5;

/// What an actor is. The code CIDs are those of the v18 bundle on network version 28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    System,
    Init,
    Reward,
    Cron,
    Power,
    Market,
    VerifiedRegistry,
    Datacap,
    EthManager,
    Account,
    Miner,
}

impl Kind {
    /// Every kind, as `StateActorCodeCIDs` lists them.
    pub const ALL: [Kind; 11] = [
        Kind::System,
        Kind::Init,
        Kind::Reward,
        Kind::Cron,
        Kind::Power,
        Kind::Market,
        Kind::VerifiedRegistry,
        Kind::Datacap,
        Kind::EthManager,
        Kind::Account,
        Kind::Miner,
    ];

    /// Name in error texts of a node and in the bundle's manifest.
    pub fn name(self) -> &'static str {
        match self {
            Kind::System => "system",
            Kind::Init => "init",
            Kind::Reward => "reward",
            Kind::Cron => "cron",
            Kind::Power => "storagepower",
            Kind::Market => "storagemarket",
            Kind::VerifiedRegistry => "verifiedregistry",
            Kind::Datacap => "datacap",
            Kind::EthManager => "eam",
            Kind::Account => "account",
            Kind::Miner => "storageminer",
        }
    }

    /// Code CID in the v18 bundle.
    pub fn code(self) -> Cid {
        let text = match self {
            Kind::System => "bafk2bzacedced5maxljwmavukjvtnmknpzoullfcwk3upaz5x5hvvdl2pk24e",
            Kind::Init => "bafk2bzaced23vlf6nemlulavy2ouxuvudxe3jbu4klc74tcgruafrqu2fnt3c",
            Kind::Reward => "bafk2bzacedchalmz2omgitfunbqg5opzcvrlvju77k6dr5zt2poyy7jjzkvwa",
            Kind::Cron => "bafk2bzacedrv5m6tczd6dz6ly3zmenkljnokovduvgkbmgxvsawbalerciieg",
            Kind::Power => "bafk2bzacebydegz3ap6xgejojdu3usfddhyrj476f25ooahgcqko6d7djynas",
            Kind::Market => "bafk2bzacecjrg6jueodndhwtkaa3n2v2tkjakmzu4c57hrhg5ige4d4kjggcg",
            Kind::VerifiedRegistry => "bafk2bzaceccqnqgyehy72nkmujvpyibikslvpyxfhpqivzjmbkmdbme5xzm2u",
            Kind::Datacap => "bafk2bzaceamho7atkl2a7c3m3t24v6tf3wzceaewp3ph6rjmwza3xdy3gmqb6",
            Kind::EthManager => "bafk2bzaceaxpy4ilqlibpgytnt5ucmju2ooi3bqwca6dngwy6hlzmshyjpafw",
            Kind::Account => "bafk2bzacedpmhtrp2kdjoga2phrbi3f7z7wn25s3tluxoagcu7hsg2ppktxbw",
            Kind::Miner => "bafk2bzacedhvcxgdz2w75izwa5s5dwvsrxsnzkjcbpbresziyrrjrsvjzwvxe",
        };
        Cid::try_from(text).expect("the table holds valid CIDs")
    }
}

/// One actor.
#[derive(Clone, Debug)]
pub struct Actor {
    pub kind: Kind,
    /// Root of its state in the blockstore.
    pub head: Cid,
    pub nonce: u64,
    pub balance: TokenAmount,
    /// Key address of an account, robust address of a miner; built-in actors have none.
    pub robust: Option<Address>,
}

/// An actor as the HAMT of the state root holds it.
#[derive(PartialEq, Serialize_tuple, Deserialize_tuple)]
struct StoredActor {
    code: Cid,
    head: Cid,
    nonce: u64,
    balance: TokenAmount,
    delegated_address: Option<Address>,
}

#[derive(Serialize_tuple, Deserialize_tuple)]
struct StateRoot {
    version: u64,
    actors: Cid,
    info: Cid,
}

/// State of the init actor in the layout of the v18 actor.
#[derive(Serialize_tuple, Deserialize_tuple)]
struct InitState {
    address_map: Cid,
    next_id: ActorID,
    network_name: String,
}

/// State of an account actor.
#[derive(Serialize_tuple, Deserialize_tuple)]
pub struct AccountState {
    pub address: Address,
}

/// All actors at one point of the chain.
#[derive(Clone, Debug)]
pub struct StateTree {
    actors: BTreeMap<ActorID, Arc<Actor>>,
    ids: Arc<BTreeMap<Address, ActorID>>,
    next_id: ActorID,
    network_name: Arc<str>,
}

impl StateTree {
    /// The built-in actors without money, each with an empty state.
    pub fn genesis(store: &Store, network_name: &str) -> StateTree {
        let mut tree = StateTree {
            actors: BTreeMap::new(),
            ids: Arc::default(),
            next_id: FIRST_NEW_ID,
            network_name: network_name.into(),
        };
        let empty = store.put(&Vec::<u8>::new());
        for (id, kind) in [
            (SYSTEM_ACTOR_ID, Kind::System),
            (INIT_ACTOR_ID, Kind::Init),
            (REWARD_ACTOR_ID, Kind::Reward),
            (CRON_ACTOR_ID, Kind::Cron),
            (STORAGE_POWER_ACTOR_ID, Kind::Power),
            (STORAGE_MARKET_ACTOR_ID, Kind::Market),
            (VERIFIED_REGISTRY_ACTOR_ID, Kind::VerifiedRegistry),
            (DATACAP_TOKEN_ACTOR_ID, Kind::Datacap),
            (EAM_ACTOR_ID, Kind::EthManager),
            (BURNT_FUNDS_ACTOR_ID, Kind::Account),
        ] {
            let balance = TokenAmount::default();
            tree.actors.insert(id, Arc::new(Actor { kind, head: empty, nonce: 0, balance, robust: None }));
        }
        tree
    }

    pub fn actor(&self, id: ActorID) -> Option<&Actor> {
        self.actors.get(&id).map(Arc::as_ref)
    }

    pub fn actor_mut(&mut self, id: ActorID) -> Option<&mut Actor> {
        self.actors.get_mut(&id).map(Arc::make_mut)
    }

    /// Every actor by id.
    pub fn actors(&self) -> impl Iterator<Item = (ActorID, &Actor)> {
        self.actors.iter().map(|(id, actor)| (*id, actor.as_ref()))
    }

    /// The id behind an address. An id address stands for itself, whether or not there is an actor.
    pub fn resolve(&self, address: &Address) -> Option<ActorID> {
        match address.payload() {
            Payload::ID(id) => Some(*id),
            _ => self.ids.get(address).copied(),
        }
    }

    /// The actor behind an address.
    pub fn lookup(&self, address: &Address) -> Option<(ActorID, &Actor)> {
        let id = self.resolve(address)?;
        Some((id, self.actor(id)?))
    }

    /// Balance of an actor; zero where there is none.
    pub fn balance(&self, id: ActorID) -> TokenAmount {
        self.actor(id).map(|actor| actor.balance.clone()).unwrap_or_default()
    }

    /// The typed state of an actor.
    pub fn load<T: DeserializeOwned>(&self, store: &Store, id: ActorID) -> anyhow::Result<T> {
        let actor = self.actor(id).ok_or_else(|| anyhow::anyhow!("actor not found"))?;
        store.load(&actor.head)
    }

    /// Adds an account with this key address under the id given, or the next free one.
    pub fn add_account(&mut self, store: &Store, key: Address, id: Option<ActorID>) -> ActorID {
        let head = store.put(&AccountState { address: key });
        self.add(Kind::Account, head, key, id)
    }

    /// Adds a miner without state; its constructor sets the head.
    pub fn add_miner(&mut self, store: &Store, robust: Address) -> ActorID {
        let empty = store.put(&Vec::<u8>::new());
        self.add(Kind::Miner, empty, robust, None)
    }

    fn add(&mut self, kind: Kind, head: Cid, robust: Address, id: Option<ActorID>) -> ActorID {
        let id = id.unwrap_or_else(|| {
            let id = self.next_id;
            self.next_id += 1;
            id
        });
        let balance = TokenAmount::default();
        self.actors.insert(id, Arc::new(Actor { kind, head, nonce: 0, balance, robust: Some(robust) }));
        Arc::make_mut(&mut self.ids).insert(robust, id);
        id
    }

    /// Writes the tree as Lotus does (a HAMT of actors, the init actor's table of addresses) and
    /// returns the state root.
    pub fn flush(&mut self, store: &Store) -> Cid {
        let mut table: Map<'_, Store, ActorID> = make_empty_map(store, TREE_BIT_WIDTH);
        for (address, id) in self.ids.iter() {
            table.set(address.to_bytes().into(), *id).expect("the table encodes, and memory does not refuse it");
        }
        let address_map = table.flush().expect("the table encodes, and memory does not refuse it");
        let init = InitState { address_map, next_id: self.next_id, network_name: self.network_name.to_string() };
        if let Some(actor) = self.actor_mut(INIT_ACTOR_ID) {
            actor.head = store.put(&init);
        }

        let mut tree: Map<'_, Store, StoredActor> = make_empty_map(store, TREE_BIT_WIDTH);
        for (id, actor) in &self.actors {
            let stored = StoredActor {
                code: actor.kind.code(),
                head: actor.head,
                nonce: actor.nonce,
                balance: actor.balance.clone(),
                delegated_address: None,
            };
            let key = Address::new_id(*id).to_bytes();
            tree.set(key.into(), stored).expect("actors encode, and memory does not refuse them");
        }
        let actors = tree.flush().expect("actors encode, and memory does not refuse them");
        let info = store.put(&Vec::<u8>::new());
        store.put(&StateRoot { version: STATE_ROOT_VERSION, actors, info })
    }
}
