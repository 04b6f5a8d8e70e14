//! The targets of `crate::fuzzing`.

use super::replay;
use crate::fuzzing;

/// A test for each target, called as it is.
macro_rules! replayed {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), fuzzing::$target);
            }
        )*
    };
}

replayed!(configuration set hparams store_header store safetensors records sentencepiece data lines tf_record ready_made);
