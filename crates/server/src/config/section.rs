//! Sections that mirror a room's own config: one list of keys, from which come the struct, its
//! defaults (the room's) and what is handed to the room.

use std::time::Duration;

use fanfare_core::Pattern;
use fanfare_edge::config::{Origin, RefusalMode};
use ipnet::IpNet;

use super::values::{Address, Bytes, Maybe, Network, Refusal, Selector, Span, WebOrigin};

/// A value of a file, and the value of a room that it stands for.
pub(crate) trait Setting {
    /// The room's type.
    type Room;
    fn of_room(room: Self::Room) -> Self;
    fn to_room(&self) -> Self::Room;
}

macro_rules! wrapped {
    ($($name:ident($room:ty))*) => {$(
        impl Setting for $name {
            type Room = $room;
            fn of_room(room: $room) -> Self { Self(room) }
            fn to_room(&self) -> $room { self.0.clone() }
        }
    )*};
}
wrapped! {
    Address(std::net::SocketAddr)
    Bytes(usize)
    Network(IpNet)
    Refusal(RefusalMode)
    Selector(Pattern)
    Span(Duration)
    WebOrigin(Origin)
}

macro_rules! same {
    ($($name:ty)*) => {$(
        impl Setting for $name {
            type Room = $name;
            fn of_room(room: $name) -> Self { room }
            fn to_room(&self) -> $name { self.clone() }
        }
    )*};
}
same! { usize u32 bool String }

impl<T: Setting> Setting for Vec<T> {
    type Room = Vec<T::Room>;
    fn of_room(room: Self::Room) -> Self {
        room.into_iter().map(T::of_room).collect()
    }
    fn to_room(&self) -> Self::Room {
        self.iter().map(T::to_room).collect()
    }
}

impl<T: Setting> Setting for Maybe<T> {
    type Room = Option<T::Room>;
    fn of_room(room: Self::Room) -> Self {
        Self(room.map(T::of_room))
    }
    fn to_room(&self) -> Self::Room {
        self.0.as_ref().map(T::to_room)
    }
}

/// Declares a section with the keys of a room's config struct. A `[list]` takes commas in an
/// environment variable.
macro_rules! section {
    (
        $(#[$doc:meta])* $name:ident of $room:ident {
            $($(#[$meta:meta])* $key:ident: $kind:ty,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name {
            $($(#[$meta])* pub(crate) $key: $kind,)+
        }

        impl Default for $name {
            fn default() -> Self {
                let room = $room::default();
                Self { $($key: $crate::config::section::Setting::of_room(room.$key),)+ }
            }
        }

        impl $name {
            /// As the room wants it. Every key of the room is a key here: the compiler sees to it.
            pub(crate) fn to_room(&self) -> $room {
                $room { $($key: $crate::config::section::Setting::to_room(&self.$key),)+ }
            }
        }
    };
}
pub(crate) use section;
