//! How a segment declares duplex channels and gives out their ends.

use super::{DuplexCaller, DuplexServer, Numbered};
use crate::error::Result;
use crate::ring::open::{TypedRing, parts, slot_geometry};
use crate::segment::Segment;
use crate::segment::builder::SegmentBuilder;
use crate::segment::directory::{ObjectSpec, TypeIdentity};
use crate::segment::endpoint::Role;
use bytemuck::{CheckedBitPattern, NoUninit};
use core::fmt;
use core::marker::PhantomData;

/// Describes a duplex channel: one caller, one server, requests and answers of any size.
///
/// It is two rings, named `NAME.request` and `NAME.response`.
pub struct Duplex<Req, Resp> {
    capacity: u64,
    identity: TypeIdentity,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<Req, Resp> Duplex<Req, Resp> {
    /// A channel that holds up to `capacity` requests, and as many answers.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, identity: TypeIdentity::default(), types: PhantomData }
    }

    /// The name and version under which programs agree on the pair of types; unnamed by default.
    #[must_use]
    pub fn identity(mut self, identity: TypeIdentity) -> Self {
        self.identity = identity;
        self
    }

    /// The rings of requests and of responses, with the name of each.
    fn specs(self, name: &str) -> [(String, Result<ObjectSpec>); 2] {
        let (request, response) = names(name);
        let requests = TypedRing::<Numbered<Req>>::new(self.capacity);
        let responses = TypedRing::<Numbered<Resp>>::new(self.capacity);
        let requests = requests.identity(self.identity.clone()).spec(&request);
        let responses = responses.identity(self.identity).spec(&response);
        [(request, requests), (response, responses)]
    }
}

impl<Req, Resp> fmt::Debug for Duplex<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (capacity, identity) = (self.capacity, &self.identity);
        f.debug_struct("Duplex").field("capacity", &capacity).field("identity", identity).finish()
    }
}

fn names(name: &str) -> (String, String) {
    (format!("{name}.request"), format!("{name}.response"))
}

impl SegmentBuilder {
    /// Declares a duplex channel for `capacity` requests of type `Req` and as many answers of
    /// type `Resp`.
    pub fn duplex<Req: NoUninit, Resp: NoUninit>(self, name: &str, capacity: u64) -> Self {
        self.duplex_of(name, Duplex::<Req, Resp>::new(capacity))
    }

    /// Declares a duplex channel with all its options.
    pub fn duplex_of<Req: NoUninit, Resp: NoUninit>(
        self,
        name: &str,
        duplex: Duplex<Req, Resp>,
    ) -> Self {
        let [(request, requests), (response, responses)] = duplex.specs(name);
        self.declare(&response, responses).declare(&request, requests)
    }
}

impl Segment {
    /// Adds a duplex channel to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring).
    pub fn add_duplex<Req: NoUninit, Resp: NoUninit>(
        &self,
        name: &str,
        duplex: Duplex<Req, Resp>,
    ) -> Result<()> {
        let [(request, requests), (response, responses)] = duplex.specs(name);
        // The request ring comes last, and with it the channel; what an adder killed in between
        // leaves is used by the next.
        let requests = requests?;
        self.ensure(&response, &responses?)?;
        self.add(&request, &requests)
    }

    /// The calling end of a duplex channel, going on behind the last call.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), for either ring.
    pub fn duplex_caller<Req: NoUninit, Resp: CheckedBitPattern>(
        &self,
        name: &str,
    ) -> Result<DuplexCaller<Req, Resp>> {
        self.duplex_caller_as(name, &TypeIdentity::default())
    }

    /// The calling end of a duplex channel whose types have a name and version.
    ///
    /// # Errors
    ///
    /// As [`duplex_caller`](Self::duplex_caller).
    pub fn duplex_caller_as<Req: NoUninit, Resp: CheckedBitPattern>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<DuplexCaller<Req, Resp>> {
        let (request, response) = names(name);
        let requests = self.typed::<Numbered<Req>>(&request, identity, Role::Producer)?;
        let responses = self.typed::<Numbered<Resp>>(&response, identity, Role::Consumer)?;
        let to = slot_geometry(&requests, size_of::<Numbered<Req>>())?;
        let from = slot_geometry(&responses, size_of::<Numbered<Resp>>())?;
        let requests = parts(&requests, Role::Producer)?;
        let responses = parts(&responses, Role::Consumer)?;
        DuplexCaller::attach((requests, to), (responses, from)).map_err(|e| e.of(name))
    }

    /// The serving end of a duplex channel, going on at the first call without an answer.
    ///
    /// # Errors
    ///
    /// As [`duplex_caller`](Self::duplex_caller).
    pub fn duplex_server<Req: CheckedBitPattern, Resp: NoUninit>(
        &self,
        name: &str,
    ) -> Result<DuplexServer<Req, Resp>> {
        self.duplex_server_as(name, &TypeIdentity::default())
    }

    /// The serving end of a duplex channel whose types have a name and version.
    ///
    /// # Errors
    ///
    /// As [`duplex_caller`](Self::duplex_caller).
    pub fn duplex_server_as<Req: CheckedBitPattern, Resp: NoUninit>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<DuplexServer<Req, Resp>> {
        let (request, response) = names(name);
        let requests = self.typed::<Numbered<Req>>(&request, identity, Role::Consumer)?;
        let responses = self.typed::<Numbered<Resp>>(&response, identity, Role::Producer)?;
        let from = slot_geometry(&requests, size_of::<Numbered<Req>>())?;
        let to = slot_geometry(&responses, size_of::<Numbered<Resp>>())?;
        let requests = parts(&requests, Role::Consumer)?;
        let responses = parts(&responses, Role::Producer)?;
        DuplexServer::attach((requests, from), (responses, to)).map_err(|e| e.of(name))
    }
}
