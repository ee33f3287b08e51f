//! The transitions against the SDM, register by register.

use super::*;
use crate::msr;

const EN: u64 = apic_base::EN;
const EXTD: u64 = apic_base::EXTD;

/// An APIC that software has enabled.
fn enabled(id: u32) -> Lapic {
    let mut lapic = Lapic::power_on(id);
    lapic.write(0xf0, 0x1ff, 0);
    lapic
}

fn x2apic(id: u32) -> Lapic {
    let mut lapic = enabled(id);
    lapic.set_apic_base(0xfee0_0000 | EN | EXTD, 40).unwrap();
    lapic
}

mod power {
    use super::*;

    #[test]
    fn power_on_is_disabled_by_software_and_masked() {
        let mut lapic = Lapic::power_on(3);
        assert_eq!(lapic.mode(), Mode::XApic);
        assert_eq!(lapic.state().base(), 0xfee0_0000);
        assert_eq!(lapic.read(0x20, 0), 3 << 24);
        assert_eq!(lapic.read(0x30, 0), 0x0005_0014);
        assert_eq!(lapic.read(0xe0, 0), u32::MAX);
        assert_eq!(lapic.read(0xf0, 0), 0xff);
        for lvt in (0x320..=0x370).step_by(16) {
            assert_eq!(lapic.read(lvt, 0), LVT_MASKED, "{lvt:#x}");
        }
        assert!(!lapic.is_enabled());
        assert!(!lapic.set_irr(0x40, false));
        assert_eq!(lapic.state().apic_base & apic_base::BSP, 0);
        assert_ne!(Lapic::power_on(0).state().apic_base & apic_base::BSP, 0);
    }

    #[test]
    fn init_keeps_id_and_base() {
        let mut lapic = x2apic(5);
        lapic.set_cr8(7);
        let base = lapic.apic_base();
        lapic.init();
        assert_eq!((lapic.state().id, lapic.apic_base(), lapic.cr8()), (5, base, 0));
        assert_eq!(lapic.mode(), Mode::X2Apic);
        assert!(!lapic.is_enabled());
    }

    #[test]
    fn masks_stay_while_disabled_by_software() {
        let mut lapic = Lapic::power_on(0);
        lapic.write(0x350, 0x700, 0);
        assert_eq!(lapic.read(0x350, 0), 0x1_0700);
        lapic.write(0xf0, 0x1ff, 0);
        lapic.write(0x350, 0x700, 0);
        assert_eq!(lapic.read(0x350, 0), 0x700);
        assert!(lapic.write(0xf0, 0xff, 0).timer);
        assert_eq!(lapic.read(0x350, 0), 0x1_0700);
    }

    #[test]
    fn disabled_by_software_holds_what_is_pending() {
        let mut lapic = enabled(0);
        assert!(lapic.set_irr(0x40, false));
        lapic.write(0xf0, 0xff, 0);
        assert!(!lapic.set_irr(0x50, false));
        assert_eq!(lapic.next_interrupt(), Some(0x40));
    }

    #[test]
    fn apic_base_transitions() {
        let base = 0xfee0_0000;
        let mut lapic = Lapic::power_on(0);
        assert_eq!(lapic.set_apic_base(base | EXTD, 40), Err(GeneralProtection));
        assert_eq!(lapic.set_apic_base(base | EN | 1, 40), Err(GeneralProtection));
        assert_eq!(lapic.set_apic_base(1 << 40 | EN, 40), Err(GeneralProtection));
        assert_eq!(lapic.set_apic_base(1 << 39 | EN, 40), Ok(()));
        assert_eq!(lapic.state().base(), 1 << 39);
        assert_eq!(lapic.set_apic_base(base | EN | EXTD, 40), Ok(()));
        assert_eq!(lapic.set_apic_base(base | EN, 40), Err(GeneralProtection));
        assert_eq!(lapic.mode(), Mode::X2Apic);
        assert_eq!(lapic.set_apic_base(base, 40), Ok(()));
        assert_eq!(lapic.mode(), Mode::Disabled);
        assert_eq!(lapic.set_apic_base(base | EN | EXTD, 40), Err(GeneralProtection));
        assert_eq!(lapic.set_apic_base(base | EN, 40), Ok(()));
    }

    #[test]
    fn turning_it_off_forgets_the_registers() {
        let mut lapic = enabled(0);
        lapic.set_cr8(9);
        lapic.set_apic_base(0xfee0_0000, 40).unwrap();
        assert_eq!(lapic.cr8(), 0);
        assert_eq!(lapic.next_interrupt(), None);
        assert!(lapic.accepts_extint());
    }

    #[test]
    fn going_to_x2apic_keeps_what_is_in_both() {
        let mut lapic = enabled(0x23);
        lapic.write(0x80, 0x30, 0);
        lapic.write(0x310, 0x0500_0000, 0);
        lapic.write(0x300, 0x40, 0);
        lapic.set_apic_base(0xfee0_0000 | EN | EXTD, 40).unwrap();
        assert_eq!(lapic.read_msr(msr::IA32_X2APIC_TPR, 0), Ok(0x30));
        assert_eq!(lapic.read_msr(msr::IA32_X2APIC_ICR, 0), Ok(0x40));
        assert_eq!(lapic.read_msr(msr::IA32_X2APIC_LDR, 0), Ok(2 << 16 | 1 << 3));
        assert_eq!(lapic.read_msr(msr::IA32_X2APIC_APICID, 0), Ok(0x23));
    }

    #[test]
    fn state_survives_serde() {
        let mut lapic = x2apic(300);
        lapic.set_irr(0x61, true);
        let text = serde_json::to_string(lapic.state()).unwrap();
        assert_eq!(&serde_json::from_str::<LapicState>(&text).unwrap(), lapic.state());
    }
}

mod priority {
    use super::*;

    #[test]
    fn the_highest_request_above_the_priority_is_next() {
        let mut lapic = enabled(0);
        for vector in [0x31, 0x45, 0x4f] {
            assert!(lapic.set_irr(vector, false));
        }
        assert_eq!(lapic.next_interrupt(), Some(0x4f));
        lapic.write(0x80, 0x40, 0);
        assert_eq!(lapic.next_interrupt(), None, "a class equal to the priority's is held back");
        lapic.write(0x80, 0x3f, 0);
        assert_eq!(lapic.next_interrupt(), Some(0x4f));
    }

    #[test]
    fn in_service_holds_back_its_class_until_eoi() {
        let mut lapic = enabled(0);
        lapic.set_irr(0x45, false);
        lapic.acknowledge(0x45);
        assert_eq!((lapic.ppr(), lapic.next_interrupt()), (0x40, None));
        lapic.set_irr(0x4f, false);
        assert_eq!(lapic.next_interrupt(), None);
        lapic.set_irr(0x51, true);
        assert_eq!(lapic.next_interrupt(), Some(0x51));
        lapic.acknowledge(0x51);
        assert_eq!(lapic.read(0x120, 0), 1 << 17 | 1 << 5, "vectors 0x40 to 0x5f are word 2");
        assert_eq!(lapic.ppr(), 0x50);
        assert_eq!(lapic.write(0xb0, 0, 0).eoi, Some(0x51), "level-triggered");
        assert_eq!(lapic.write(0xb0, 0, 0).eoi, None, "edge-triggered");
        assert_eq!(lapic.next_interrupt(), Some(0x4f));
        assert_eq!(lapic.write(0xb0, 0, 0).eoi, None, "nothing in service");
    }

    #[test]
    fn ppr_takes_the_sub_class_from_tpr_only() {
        let mut lapic = enabled(0);
        lapic.write(0x80, 0x45, 0);
        assert_eq!(lapic.read(0xa0, 0), 0x45);
        lapic.set_irr(0x57, false);
        lapic.acknowledge(0x57);
        assert_eq!(lapic.read(0xa0, 0), 0x50);
    }

    #[test]
    fn cr8_is_the_upper_half_of_tpr() {
        let mut lapic = enabled(0);
        lapic.write(0x80, 0x57, 0);
        assert_eq!(lapic.cr8(), 5);
        lapic.set_cr8(0xa);
        assert_eq!(lapic.read(0x80, 0), 0xa0);
    }

    #[test]
    fn the_lowest_and_the_highest_vector() {
        let mut lapic = enabled(0);
        lapic.set_irr(16, false);
        assert_eq!(lapic.next_interrupt(), Some(16));
        lapic.set_irr(255, false);
        assert_eq!(lapic.next_interrupt(), Some(255));
        assert_eq!((lapic.read(0x200, 0), lapic.read(0x270, 0)), (1 << 16, 1 << 31));
    }

    #[test]
    fn trigger_mode_follows_the_last_request() {
        let mut lapic = enabled(0);
        lapic.set_irr(0x40, true);
        assert_eq!(lapic.read(0x1a0, 0), 1);
        lapic.set_irr(0x40, false);
        assert_eq!(lapic.read(0x1a0, 0), 0);
    }
}

mod errors {
    use super::*;

    #[test]
    fn received_illegal_vector_raises_the_error_interrupt_once() {
        let mut lapic = enabled(0);
        lapic.write(0x370, 0xfe, 0);
        assert!(!lapic.set_irr(15, false));
        assert_eq!(lapic.next_interrupt(), Some(0xfe));
        assert_eq!(lapic.read(0x280, 0), 0, "shows only after a write");
        lapic.acknowledge(0xfe);
        lapic.eoi();
        assert!(!lapic.set_irr(3, false));
        assert_eq!(lapic.next_interrupt(), None);
        lapic.write(0x280, 0, 0);
        assert_eq!(lapic.read(0x280, 0), ESR_RECEIVE_ILLEGAL_VECTOR);
        lapic.write(0x280, 0, 0);
        assert_eq!(lapic.read(0x280, 0), 0);
    }

    #[test]
    fn sent_illegal_vector_is_not_sent() {
        let mut lapic = enabled(0);
        assert_eq!(lapic.write(0x300, 0x0004_0005, 0).ipi, None);
        lapic.write(0x280, 0, 0);
        assert_eq!(lapic.read(0x280, 0), ESR_SEND_ILLEGAL_VECTOR);
    }

    #[test]
    fn an_illegal_error_vector_does_not_recurse() {
        let mut lapic = enabled(0);
        lapic.write(0x370, 0x5, 0);
        lapic.set_irr(1, false);
        assert_eq!(lapic.next_interrupt(), None);
    }

    #[test]
    fn no_such_register() {
        for offset in [0x0, 0x10, 0x40, 0x290, 0x2f0, 0x3a0, 0x3f0, 0x400, 0xff0] {
            let mut lapic = enabled(0);
            assert_eq!(lapic.read(offset, 0), 0);
            lapic.write(0x280, 0, 0);
            assert_eq!(lapic.read(0x280, 0), ESR_ILLEGAL_REGISTER, "{offset:#x}");
            lapic.write(0x280, 0, 0);
            lapic.write(offset, 1, 0);
            lapic.write(0x280, 0, 0);
            assert_eq!(lapic.read(0x280, 0), ESR_ILLEGAL_REGISTER, "{offset:#x}");
        }
    }

    #[test]
    fn the_whole_page_can_be_touched() {
        let mut lapic = enabled(0);
        for offset in 0..0x1000 {
            for value in [0, u32::MAX, 0x5555_5555] {
                lapic.read(offset, 1);
                lapic.write(offset, value, 2);
            }
        }
        assert_eq!(lapic.state().id, 0);
    }
}

mod pins {
    use super::*;

    #[test]
    fn virtual_wire() {
        let mut state = LapicState::power_on(0);
        state.set_virtual_wire();
        let mut lapic = Lapic::new(state, crate::Tsc::nanoseconds());
        assert!(lapic.accepts_extint());
        assert_eq!(lapic.pin(Pin::Lint0), Arrival::ExtInt);
        assert_eq!(lapic.pin(Pin::Lint1), Arrival::Nmi);
        lapic.write(0x350, 0x1_0700, 0);
        lapic.write(0x360, 0x1_0400, 0);
        assert!(!lapic.accepts_extint());
        assert_eq!((lapic.pin(Pin::Lint0), lapic.pin(Pin::Lint1)), (Arrival::Nothing, Arrival::Nothing));
    }

    #[test]
    fn lint0_as_a_fixed_interrupt() {
        let mut lapic = enabled(0);
        lapic.write(0x350, 0x30, 0);
        assert!(!lapic.accepts_extint());
        assert_eq!(lapic.pin(Pin::Lint0), Arrival::Interrupt);
        assert_eq!(lapic.next_interrupt(), Some(0x30));
    }

    #[test]
    fn read_only_bits_of_the_lvt_stay_clear() {
        let mut lapic = enabled(0);
        for (offset, bits) in
            [(0x320, 0x7_00ff), (0x330, 0x1_07ff), (0x340, 0x1_07ff), (0x350, 0x1_a7ff), (0x370, 0x1_00ff)]
        {
            lapic.write(offset, u32::MAX, 0);
            assert_eq!(lapic.read(offset, 0), bits, "{offset:#x}");
        }
    }
}

mod messages {
    use super::*;

    fn to(dest: Destination) -> IpiRequest {
        IpiRequest { vector: 0x40, mode: DeliveryMode::Fixed, dest, level: false }
    }

    #[test]
    fn icr_fields() {
        let icr = |low: u32| IpiRequest::from_icr(u64::from(low) | 7 << 56, false);
        assert_eq!(icr(0x0_40fd), Some(IpiRequest { vector: 0xfd, ..to(Destination::Physical(7)) }));
        assert_eq!(icr(0x0_08fd), Some(IpiRequest { vector: 0xfd, ..to(Destination::Logical(7)) }));
        assert_eq!(icr(0x4_0040), Some(to(Destination::SelfOnly)));
        assert_eq!(icr(0x8_0040), Some(to(Destination::All)));
        assert_eq!(icr(0xc_0040), Some(to(Destination::AllButSelf)));
        assert_eq!(icr(0x340), None, "reserved delivery mode");
        assert_eq!(icr(0x740), None, "ExtINT is not for IPIs");
        assert_eq!(icr(0xc500).unwrap().mode, DeliveryMode::Init);
        assert_eq!(icr(0x8500), None, "INIT level de-assert");
        let sipi = icr(0x608).unwrap();
        assert_eq!((sipi.mode, sipi.vector), (DeliveryMode::StartUp, 8));
        assert_eq!(IpiRequest::from_icr(0xff << 56 | 0x40, false), Some(to(Destination::All)));
        assert_eq!(IpiRequest::from_icr(0xff << 32 | 0x40, true), Some(to(Destination::Physical(0xff))));
        assert_eq!(IpiRequest::from_icr(0xffff_ffff << 32 | 0x840, true), Some(to(Destination::All)));
    }

    #[test]
    fn msi_fields() {
        let msi = |address, data| IpiRequest::from_msi(address, data);
        assert_eq!(msi(0xfee0_3000, 0x40), Some(to(Destination::Physical(3))));
        assert_eq!(msi(0xfeef_f000, 0x40), Some(to(Destination::All)));
        assert_eq!(msi(0xfee0_3004, 0x40), Some(to(Destination::Logical(3))));
        assert_eq!(msi(0xfee0_300c, 0x40).unwrap().mode, DeliveryMode::LowestPriority);
        assert_eq!(msi(0xfee0_3008, 0x40).unwrap().mode, DeliveryMode::Fixed);
        assert!(msi(0xfee0_3000, 0xc040).unwrap().level);
        assert!(!msi(0xfee0_3000, 0xc400).unwrap().level, "NMI is always edge-triggered");
        assert_eq!(msi(0xfee0_3000, 0x340), None);
        assert_eq!(msi(0xfee0_3000, 0x640), None);
        assert_eq!(msi(0xfed0_3000, 0x40), None);
        assert_eq!(msi(0x1_fee0_3000, 0x40), None);
    }

    #[test]
    fn physical_and_shorthands() {
        let xapic = enabled(7);
        assert!(xapic.accepts(&to(Destination::Physical(7)), false));
        assert!(!xapic.accepts(&to(Destination::Physical(6)), false));
        assert!(xapic.accepts(&to(Destination::All), true) && xapic.accepts(&to(Destination::All), false));
        assert!(xapic.accepts(&to(Destination::SelfOnly), true) && !xapic.accepts(&to(Destination::SelfOnly), false));
        assert!(!xapic.accepts(&to(Destination::AllButSelf), true));
        assert!(xapic.accepts(&to(Destination::AllButSelf), false));
        let mut off = enabled(7);
        off.set_apic_base(0xfee0_0000, 40).unwrap();
        assert!(!off.accepts(&to(Destination::All), false));
    }

    #[test]
    fn logical_flat() {
        let mut lapic = enabled(1);
        lapic.write(0xd0, 0x02ff_ffff, 0);
        assert_eq!(lapic.read(0xd0, 0), 0x0200_0000);
        assert!(lapic.accepts(&to(Destination::Logical(0x03)), false));
        assert!(!lapic.accepts(&to(Destination::Logical(0x05)), false));
        assert!(lapic.accepts(&to(Destination::Logical(0xff)), false));
    }

    #[test]
    fn logical_cluster() {
        let mut lapic = enabled(1);
        lapic.write(0xe0, 0, 0);
        assert_eq!(lapic.read(0xe0, 0), 0x0fff_ffff);
        lapic.write(0xd0, 0x2200_0000, 0);
        assert!(lapic.accepts(&to(Destination::Logical(0x23)), false));
        assert!(!lapic.accepts(&to(Destination::Logical(0x21)), false));
        assert!(!lapic.accepts(&to(Destination::Logical(0x12)), false));
        assert!(lapic.accepts(&to(Destination::Logical(0xff)), false));
        lapic.write(0xe0, 0x4000_0000, 0);
        assert!(!lapic.accepts(&to(Destination::Logical(0x23)), false), "no such model");
    }

    #[test]
    fn logical_x2apic() {
        let lapic = x2apic(0x25);
        assert!(lapic.accepts(&to(Destination::Logical(2 << 16 | 0x20)), false));
        assert!(!lapic.accepts(&to(Destination::Logical(2 << 16 | 0x10)), false));
        assert!(!lapic.accepts(&to(Destination::Logical(1 << 16 | 0x20)), false));
        assert!(lapic.accepts(&to(Destination::Physical(0x25)), false));
        assert!(!x2apic(0x125).accepts(&to(Destination::Physical(0x25)), false));
    }

    #[test]
    fn what_arrives() {
        let mut lapic = enabled(0);
        let with = |mode| IpiRequest { mode, ..to(Destination::All) };
        assert_eq!(lapic.deliver(&with(DeliveryMode::Fixed)), Arrival::Interrupt);
        assert_eq!(lapic.next_interrupt(), Some(0x40));
        assert_eq!(lapic.deliver(&with(DeliveryMode::Init)), Arrival::Init);
        assert_eq!(lapic.deliver(&with(DeliveryMode::StartUp)), Arrival::StartUp(0x40));
        assert_eq!(lapic.deliver(&with(DeliveryMode::Nmi)), Arrival::Nmi);
        assert_eq!(Lapic::power_on(0).deliver(&with(DeliveryMode::Fixed)), Arrival::Nothing);
        assert_eq!(Lapic::power_on(0).deliver(&with(DeliveryMode::Nmi)), Arrival::Nmi);
    }

    #[test]
    fn xapic_icr_sends_on_the_low_half_only() {
        let mut lapic = enabled(0);
        assert_eq!(lapic.write(0x310, 0x0100_0000, 0), Effects::default());
        assert_eq!(lapic.write(0x300, 0x40, 0).ipi, Some(to(Destination::Physical(1))));
        assert_eq!(lapic.read(0x310, 0), 0x0100_0000);
        assert_eq!(lapic.read(0x300, 0), 0x40);
        lapic.write(0x300, 0xffff_ff40, 0);
        assert_eq!(lapic.read(0x300, 0) & 0xfff3_3000, 0, "reserved bits and delivery status");
    }
}

mod msrs {
    use super::*;

    #[test]
    fn only_in_x2apic_mode() {
        let mut lapic = enabled(0);
        assert_eq!(lapic.read_msr(msr::IA32_X2APIC_APICID, 0), Err(GeneralProtection));
        assert_eq!(lapic.write_msr(msr::IA32_X2APIC_EOI, 0, 0), Err(GeneralProtection));
    }

    #[test]
    fn which_can_be_read_and_written() {
        // SDM vol. 3A, table 11-6.
        let both: Vec<u32> = [0x808, 0x80f, 0x828, 0x830].into_iter().chain(0x832..=0x838).chain([0x83e]).collect();
        let read_only: Vec<u32> =
            [0x802, 0x803, 0x80a, 0x80d].into_iter().chain(0x810..=0x827).chain([0x839]).collect();
        let write_only = [0x80b, 0x83f];
        for msr in 0x7ff..=0x900 {
            let mut lapic = x2apic(0);
            let readable = both.contains(&msr) || read_only.contains(&msr);
            assert_eq!(lapic.read_msr(msr, 0).is_ok(), readable, "{msr:#x}");
            let writable = both.contains(&msr) || write_only.contains(&msr);
            assert_eq!(lapic.write_msr(msr, 0, 0).is_ok(), writable, "{msr:#x}");
        }
    }

    #[test]
    fn reserved_bits() {
        let mut lapic = x2apic(0);
        for (msr, value) in [
            (0x808, 0x100),
            (0x80b, 1),
            (0x80f, 1 << 12),
            (0x828, 1),
            (0x830, 1 << 13),
            (0x830, 1 << 16),
            (0x830, 1 << 31),
            (0x832, 1 << 19),
            (0x832, 1 << 8),
            (0x833, 1 << 17),
            (0x835, 1 << 17),
            (0x837, 1 << 8),
            (0x838, 1 << 32),
            (0x83e, 4),
            (0x83f, 0x100),
        ] {
            assert_eq!(lapic.write_msr(msr, value, 0), Err(GeneralProtection), "{msr:#x} {value:#x}");
        }
    }

    #[test]
    fn icr_is_one_register() {
        let mut lapic = x2apic(0);
        let ipi = lapic.write_msr(msr::IA32_X2APIC_ICR, 0x1234_5678_0000_0040, 0).unwrap().ipi.unwrap();
        assert_eq!((ipi.dest, ipi.vector), (Destination::Physical(0x1234_5678), 0x40));
        assert_eq!(lapic.read_msr(msr::IA32_X2APIC_ICR, 0), Ok(0x1234_5678_0000_0040));
    }

    #[test]
    fn self_ipi() {
        let mut lapic = x2apic(4);
        let ipi = lapic.write_msr(msr::IA32_X2APIC_SELF_IPI, 0x55, 0).unwrap().ipi.unwrap();
        assert!(lapic.accepts(&ipi, true) && !lapic.accepts(&ipi, false));
        assert_eq!(lapic.deliver(&ipi), Arrival::Interrupt);
        assert_eq!(lapic.next_interrupt(), Some(0x55));
        lapic.acknowledge(0x55);
        assert_eq!(lapic.write_msr(msr::IA32_X2APIC_EOI, 0, 0), Ok(Effects::default()));
        assert_eq!(lapic.ppr(), 0);
        assert_eq!(lapic.write_msr(msr::IA32_X2APIC_SELF_IPI, 5, 0).unwrap().ipi, None);
    }
}

mod timer {
    use super::*;

    const ONE_SHOT: u32 = 0xec;
    const PERIODIC: u32 = 1 << 17 | 0xec;
    const DEADLINE: u32 = 2 << 17 | 0xec;

    /// With the divider at 1 and this LVT entry.
    fn timer(lvt: u32) -> Lapic {
        let mut lapic = enabled(0);
        lapic.write(0x3e0, 0xb, 0);
        lapic.write(0x320, lvt, 0);
        lapic
    }

    fn take(lapic: &mut Lapic) -> Option<u8> {
        let vector = lapic.next_interrupt()?;
        lapic.acknowledge(vector);
        lapic.eoi();
        Some(vector)
    }

    #[test]
    fn dividers() {
        for (register, ticks) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
            assert_eq!(Divide::from_register(register).ticks(), ticks, "{register}");
        }
    }

    #[test]
    fn one_shot() {
        let mut lapic = timer(ONE_SHOT);
        assert_eq!(lapic.timer_deadline(0), None);
        assert!(lapic.write(0x380, 1000, 5000).timer);
        assert_eq!(lapic.timer_deadline(5000), Some(6000));
        assert_eq!(lapic.read(0x390, 5400), 600);
        assert!(!lapic.timer_fired(5999));
        assert!(lapic.timer_fired(6000));
        assert_eq!(take(&mut lapic), Some(0xec));
        assert!(!lapic.timer_fired(9000));
        assert_eq!((lapic.read(0x390, 9000), lapic.timer_deadline(9000)), (0, None));
        assert_eq!(lapic.read(0x380, 9000), 1000);
    }

    #[test]
    fn the_divider_slows_it_down() {
        let mut lapic = timer(ONE_SHOT);
        lapic.write(0x3e0, 0x3, 0);
        lapic.write(0x380, 1000, 0);
        assert_eq!(lapic.timer_deadline(0), Some(16_000));
        assert_eq!(lapic.read(0x390, 8000), 500);
        lapic.write(0x3e0, 0xb, 8000);
        assert_eq!(lapic.read(0x390, 8000), 500, "goes on from where it was");
        assert_eq!(lapic.timer_deadline(8000), Some(8500));
    }

    #[test]
    fn the_largest_count() {
        let mut lapic = timer(ONE_SHOT);
        lapic.write(0x3e0, 0xa, 0);
        lapic.write(0x380, u32::MAX, 0);
        assert_eq!(lapic.timer_deadline(0), Some(u64::from(u32::MAX) * 128));
        assert_eq!(lapic.read(0x390, 0), u32::MAX);
    }

    #[test]
    fn periodic_does_not_drift_and_skips_what_it_missed() {
        let mut lapic = timer(PERIODIC);
        lapic.write(0x380, 1_000_000, 0);
        assert_eq!(lapic.timer_deadline(0), Some(1_000_000));
        assert!(lapic.timer_fired(1_000_300));
        assert_eq!(lapic.timer_deadline(1_000_300), Some(2_000_000));
        assert!(lapic.timer_fired(5_400_000));
        assert!(!lapic.timer_fired(5_400_001));
        assert_eq!(lapic.timer_deadline(5_400_001), Some(6_000_000));
        assert_eq!(lapic.read(0x390, 5_400_000), 600_000);
        lapic.write(0x380, 0, 5_500_000);
        assert_eq!(lapic.timer_deadline(5_500_000), None);
    }

    #[test]
    fn a_period_too_short_to_keep_up_with() {
        let mut lapic = timer(PERIODIC);
        lapic.write(0x380, 3, 0);
        let deadline = lapic.timer_deadline(0).unwrap();
        assert!((MIN_PERIOD_NS..MIN_PERIOD_NS + 3).contains(&deadline) && deadline.is_multiple_of(3));
        assert!(lapic.timer_fired(deadline));
        assert_eq!(lapic.timer_deadline(deadline), Some(deadline * 2));
    }

    #[test]
    fn a_masked_timer_counts_without_alarms() {
        let mut lapic = timer(ONE_SHOT | LVT_MASKED);
        lapic.write(0x380, 1000, 0);
        assert_eq!(lapic.timer_deadline(0), None);
        assert_eq!(lapic.read(0x390, 400), 600);
        lapic.write(0x320, ONE_SHOT, 500);
        assert_eq!(lapic.timer_deadline(500), Some(1000));
        lapic.write(0x320, ONE_SHOT | LVT_MASKED, 600);
        lapic.write(0x320, ONE_SHOT, 2000);
        assert_eq!((lapic.timer_deadline(2000), lapic.next_interrupt()), (None, None), "lost while masked");
    }

    #[test]
    fn masking_after_the_expiry_does_not_lose_it() {
        let mut lapic = timer(ONE_SHOT);
        lapic.write(0x380, 1000, 0);
        lapic.write(0x320, ONE_SHOT | LVT_MASKED, 1001);
        assert_eq!(lapic.next_interrupt(), Some(0xec));
    }

    #[test]
    fn tsc_deadline() {
        let mut lapic = timer(DEADLINE);
        lapic.set_tsc(crate::Tsc::nanoseconds().with_offset(1_000_000));
        lapic.set_tsc_deadline(1_005_000, 2000);
        assert_eq!(lapic.tsc_deadline(2000), 1_005_000);
        assert_eq!(lapic.timer_deadline(2000), Some(5000));
        lapic.write(0x380, 7, 2000);
        assert_eq!((lapic.read(0x380, 2000), lapic.read(0x390, 2000)), (0, 0), "no count in this mode");
        assert!(!lapic.timer_fired(4999));
        assert!(lapic.timer_fired(5000));
        assert_eq!((take(&mut lapic), lapic.tsc_deadline(5000)), (Some(0xec), 0));
        lapic.set_tsc_deadline(1, 6000);
        assert_eq!(take(&mut lapic), Some(0xec), "in the past: at once");
        lapic.set_tsc_deadline(u64::MAX, 6000);
        lapic.set_tsc_deadline(0, 6000);
        assert_eq!(lapic.timer_deadline(6000), None);
    }

    #[test]
    fn a_deadline_moves_with_the_counter() {
        let mut lapic = timer(DEADLINE);
        lapic.set_tsc_deadline(10_000, 0);
        lapic.set_tsc(crate::Tsc::nanoseconds().with_offset(4000));
        assert_eq!(lapic.timer_deadline(1000), Some(6000));
        lapic.set_tsc(crate::Tsc::nanoseconds().with_offset(0u64.wrapping_sub(500)));
        assert_eq!(lapic.timer_deadline(1000), Some(10_500));
        lapic.set_tsc(crate::Tsc::nanoseconds().with_offset(20_000));
        assert_eq!(lapic.timer_deadline(1000), Some(1000));
        assert_eq!(lapic.tsc_deadline(1000), 0);
    }

    #[test]
    fn changing_to_or_from_deadline_mode_disarms() {
        let mut lapic = timer(ONE_SHOT);
        lapic.set_tsc_deadline(100, 0);
        assert_eq!(lapic.tsc_deadline(0), 0, "ignored outside of its mode");
        lapic.write(0x380, 1000, 0);
        lapic.write(0x320, DEADLINE, 0);
        assert_eq!(lapic.timer_deadline(0), None);
        lapic.set_tsc_deadline(100, 0);
        lapic.write(0x320, PERIODIC, 0);
        assert_eq!((lapic.timer_deadline(0), lapic.tsc_deadline(0)), (None, 0));
    }

    #[test]
    fn the_reserved_mode_never_fires() {
        let mut lapic = timer(3 << 17 | 0xec);
        lapic.write(0x380, 1000, 0);
        lapic.set_tsc_deadline(5, 0);
        assert!(!lapic.timer_fired(1 << 40));
        assert_eq!((lapic.timer_deadline(0), lapic.read(0x390, 1)), (None, 0));
    }

    #[test]
    fn a_time_from_before_the_start_reads_as_the_start() {
        let mut lapic = timer(ONE_SHOT);
        lapic.write(0x380, 1000, 5000);
        assert_eq!(lapic.read(0x390, 4000), 1000);
        assert!(!lapic.timer_fired(4000));
    }

    #[test]
    fn an_illegal_vector_is_an_error() {
        let mut lapic = timer(0x5);
        lapic.write(0x380, 1000, 0);
        assert!(!lapic.timer_fired(1000));
        lapic.write(0x280, 0, 1000);
        assert_eq!(lapic.read(0x280, 1000), ESR_RECEIVE_ILLEGAL_VECTOR);
    }
}
