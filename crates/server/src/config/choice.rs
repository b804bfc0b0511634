//! Settings that are one of a few words.

/// An enum that is written as one of a few words. A word that is none of them but might be expected
/// comes with advice on what to do instead.
macro_rules! choice {
    (
        $(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }
        $(instead { $($other:literal = $advice:literal,)+ })?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(from)?;
                let allowed = [$($word,)+].join(", ");
                match &*text {
                    $($word => Ok(Self::$variant),)+
                    $($($other => Err(serde::de::Error::custom(
                        format!("expected one of: {allowed}; {}", $advice),
                    )),)+)?
                    _ => Err(serde::de::Error::custom(format!("expected one of: {allowed}"))),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    };
}
pub(crate) use choice;
