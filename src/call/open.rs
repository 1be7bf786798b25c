//! How a segment declares call cells and gives out their ends.

use super::endpoint::{AttachError, Parts};
use super::layout::{ALIGN, BYTES_MAX, CONTROL_LEN, Lengths, PAYLOAD_LEN};
use super::{Caller, Server};
use crate::error::{Error, ErrorKind, Result};
use crate::segment::builder::SegmentBuilder;
use crate::segment::directory::{ObjectSpec, Schema, TypeIdentity, check_type, description_calls};
use crate::segment::endpoint::Role;
use crate::segment::layout::ObjectKind;
use crate::segment::{ObjectHandle, Segment};
use bytemuck::{CheckedBitPattern, NoUninit};
use core::fmt;
use core::marker::PhantomData;

/// Describes a call cell: one caller, one server, a request and its answer of up to 56 bytes.
///
/// Larger values are a mistake that the compiler finds:
///
/// ```compile_fail
/// use hugeshm::Segment;
/// let builder = Segment::create("calls").call::<[u64; 8], u64>("too.large");
/// ```
pub struct CallCell<Req, Resp> {
    identity: TypeIdentity,
    schema: Option<Schema>,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<Req, Resp> Default for CallCell<Req, Resp> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Req, Resp> CallCell<Req, Resp> {
    const FITS: () = {
        assert!(
            size_of::<Req>() <= BYTES_MAX,
            "a request in a call cell has at most 56 bytes; for larger ones declare a duplex channel"
        );
        assert!(
            size_of::<Resp>() <= BYTES_MAX,
            "an answer in a call cell has at most 56 bytes; for larger ones declare a duplex channel"
        );
    };

    /// A cell whose types are known by size and alignment alone.
    pub fn new() -> Self {
        const { Self::FITS }
        Self { identity: TypeIdentity::default(), schema: None, types: PhantomData }
    }

    description_calls!("the pair of types");

    fn spec(self) -> ObjectSpec {
        ObjectSpec {
            kind: ObjectKind::CallCell,
            capacity: 1,
            stride: 0,
            payload_align: ALIGN as u64,
            user_header: 0,
            producers: 1,
            consumers: 1,
            extra: [size_of::<Resp>() as u64, align_of::<Resp>() as u64],
            words_bytes: CONTROL_LEN as u64,
            payload_bytes: PAYLOAD_LEN as u64,
            type_identity: self.identity,
            type_size: size_of::<Req>() as u64,
            type_align: align_of::<Req>() as u64,
            schema: self.schema,
        }
    }
}

impl<Req, Resp> fmt::Debug for CallCell<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallCell").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl SegmentBuilder {
    /// Declares a call cell: requests of type `Req`, answers of type `Resp`, each of at most 56
    /// bytes.
    pub fn call<Req: NoUninit, Resp: NoUninit>(self, name: &str) -> Self {
        self.call_of(name, CallCell::<Req, Resp>::new())
    }

    /// Declares a call cell with all its options.
    pub fn call_of<Req: NoUninit, Resp: NoUninit>(
        self,
        name: &str,
        cell: CallCell<Req, Resp>,
    ) -> Self {
        self.declare(name, Ok(cell.spec()))
    }
}

impl Segment {
    /// Adds a call cell to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring).
    pub fn add_call<Req: NoUninit, Resp: NoUninit>(
        &self,
        name: &str,
        cell: CallCell<Req, Resp>,
    ) -> Result<()> {
        self.add(name, &cell.spec())
    }

    /// The calling end of a call cell, going on behind the last call.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), whose place in the directory a caller has.
    pub fn caller<Req: NoUninit, Resp: CheckedBitPattern>(
        &self,
        name: &str,
    ) -> Result<Caller<Req, Resp>> {
        self.caller_as(name, &TypeIdentity::default())
    }

    /// The calling end of a call cell whose types have a name and version.
    ///
    /// `Resp` may be shorter than what the server writes: a prefix is read then.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer).
    pub fn caller_as<Req: NoUninit, Resp: CheckedBitPattern>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<Caller<Req, Resp>> {
        const { CallCell::<Req, Resp>::FITS }
        let (object, lengths) = self.cell::<Req, Resp>(name, identity, Role::Producer)?;
        Caller::attach(parts(&object, Role::Producer)?, lengths).map_err(|e| e.of(name))
    }

    /// The serving end of a call cell, going on at the first call without an answer.
    ///
    /// # Errors
    ///
    /// As [`consumer`](Self::consumer), whose place in the directory a server has.
    pub fn server<Req: CheckedBitPattern, Resp: NoUninit>(
        &self,
        name: &str,
    ) -> Result<Server<Req, Resp>> {
        self.server_as(name, &TypeIdentity::default())
    }

    /// The serving end of a call cell whose types have a name and version.
    ///
    /// `Req` may be shorter than what the caller writes: a prefix is read then.
    ///
    /// # Errors
    ///
    /// As [`consumer`](Self::consumer).
    pub fn server_as<Req: CheckedBitPattern, Resp: NoUninit>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<Server<Req, Resp>> {
        const { CallCell::<Req, Resp>::FITS }
        let (object, lengths) = self.cell::<Req, Resp>(name, identity, Role::Consumer)?;
        Server::attach(parts(&object, Role::Consumer)?, lengths).map_err(|e| e.of(name))
    }

    /// The cell of this name, if both types fit: the one that `role` reads may be a prefix.
    fn cell<Req, Resp>(
        &self,
        name: &str,
        identity: &TypeIdentity,
        role: Role,
    ) -> Result<(ObjectHandle, Lengths)> {
        let object = self.object(name)?;
        let entry = &object.entry;
        if entry.kind != ObjectKind::CallCell {
            return Err(Error::new(ErrorKind::KindMismatch, "attach to object", name)
                .detail(format!("it is of kind {}, a call cell was asked for", entry.kind)));
        }
        let (size, align) = (size_of::<Req>() as u64, align_of::<Req>() as u64);
        check_type(name, entry, identity, size, align, role == Role::Consumer)?;
        let [size, align] = entry.raw.extra;
        let (asked, asked_align) = (size_of::<Resp>() as u64, align_of::<Resp>() as u64);
        let prefix = role == Role::Producer && !identity.name.is_empty() && asked <= size;
        if (size, align) != (asked, asked_align) && !prefix {
            return Err(Error::new(ErrorKind::TypeMismatch, "use the type of object", name)
                .detail(format!(
                    "its answers have {size} bytes aligned to {align}, asked for {asked} bytes \
                     aligned to {asked_align}"
                )));
        }
        let lengths = Lengths::new(entry.raw.type_size, size)
            .ok_or_else(|| AttachError::Geometry.of(name))?;
        Ok((object, lengths))
    }
}

/// The claim on one end and the windows it works in.
fn parts(object: &ObjectHandle, role: Role) -> Result<Parts> {
    let endpoint = object.claim(role)?;
    let stats = endpoint.stats().ok_or_else(|| AttachError::Geometry.of(&object.entry.name))?;
    Ok(Parts {
        control: object.words.clone(),
        payload: object.payload.clone(),
        stats,
        link: Box::new(endpoint),
    })
}
