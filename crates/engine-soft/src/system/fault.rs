//! Which exceptions during the delivery of others make a double fault (SDM vol. 3A, 6.15, interrupt 8).

use x86::bits::vector;

/// What follows an exception that could not be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The second exception is handled as if it were the first.
    Serial,
    /// A double fault.
    Double,
    /// The end: a fault while delivering a double fault.
    Shutdown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn class(number: u8) -> Class {
    match number {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP | 21 => Class::Contributory,
        vector::PF | 20 => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What happens when `second` comes up while `first` is being delivered.
pub(super) fn combine(first: u8, second: u8) -> Next {
    match (class(first), class(second)) {
        (_, Class::Benign) | (Class::Benign, _) | (Class::Contributory, Class::PageFault) => Next::Serial,
        (Class::DoubleFault, _) => Next::Shutdown,
        _ => Next::Double,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_the_manual() {
        use vector::*;
        for benign in [DB, NMI, BP, OF, BR, UD, NM, MF, AC, MC, XM, 0x30] {
            for second in [DE, PF, GP] {
                assert_eq!(combine(benign, second), Next::Serial);
            }
        }
        for first in [DE, TS, NP, SS, GP] {
            for second in [DE, TS, NP, SS, GP] {
                assert_eq!(combine(first, second), Next::Double);
            }
            assert_eq!(combine(first, PF), Next::Serial);
            assert_eq!(combine(PF, first), Next::Double);
            assert_eq!(combine(DF, first), Next::Shutdown);
        }
        assert_eq!(combine(PF, PF), Next::Double);
        assert_eq!(combine(DF, PF), Next::Shutdown);
        assert_eq!(combine(GP, UD), Next::Serial);
    }
}
