//! Q.850 causes by name, as ITU-T Q.850 table 1 and Asterisk's causes.h have them.

use crate::call::Cause;

/// `None` for 0: Asterisk writes it where it does not know.
pub(super) fn cause(code: Option<i64>) -> Option<Cause> {
    let code = code.filter(|&c| c != 0)?;
    Some(Cause { code, name: name(code).map(str::to_owned) })
}

/// By its code.
pub(super) fn name(code: i64) -> Option<&'static str> {
    Some(match code {
        1 => "unallocated_number",
        2 => "no_route_transit_network",
        3 => "no_route_destination",
        5 => "misdialled_trunk_prefix",
        6 => "channel_unacceptable",
        7 => "call_awarded_delivered",
        8 => "preemption",
        14 => "number_ported",
        16 => "normal_clearing",
        17 => "user_busy",
        18 => "no_user_response",
        19 => "no_answer",
        20 => "subscriber_absent",
        21 => "call_rejected",
        22 => "number_changed",
        23 => "redirected_to_new_destination",
        26 => "answered_elsewhere",
        27 => "destination_out_of_order",
        28 => "invalid_number_format",
        29 => "facility_rejected",
        30 => "response_to_status_enquiry",
        31 => "normal_unspecified",
        34 => "normal_circuit_congestion",
        38 => "network_out_of_order",
        41 => "normal_temporary_failure",
        42 => "switch_congestion",
        43 => "access_information_discarded",
        44 => "requested_channel_unavailable",
        47 => "resource_unavailable",
        50 => "facility_not_subscribed",
        52 => "outgoing_call_barred",
        54 => "incoming_call_barred",
        57 => "bearer_capability_not_authorised",
        58 => "bearer_capability_not_available",
        63 => "service_unavailable",
        65 => "bearer_capability_not_implemented",
        66 => "channel_type_not_implemented",
        69 => "facility_not_implemented",
        79 => "service_not_implemented",
        81 => "invalid_call_reference",
        88 => "incompatible_destination",
        95 => "invalid_message",
        96 => "mandatory_information_missing",
        97 => "message_type_nonexistent",
        98 => "wrong_message",
        99 => "information_element_nonexistent",
        100 => "invalid_information_element",
        101 => "wrong_call_state",
        102 => "recovery_on_timer_expiry",
        103 => "mandatory_information_length_error",
        111 => "protocol_error",
        127 => "interworking",
        _ => return None,
    })
}
