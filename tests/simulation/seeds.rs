//! Seeds that tell of something: each was, or would be, the first to notice.

use crate::ledger::{FLIGHTS, FORGOTTEN, STALE, SUBJECT, UNANSWERED};
use crate::sabotage::Sabotage;

/// Schedules in which something would be wrong that once was, in production code or in its mirror.
pub const NAMED: &[(u64, &str)] = &[
    (
        929,
        "who had registered before the others in a new epoch took itself for alone, and served on when cut off",
    ),
    (8_983, "what one instance let go, when it had settled, was let go by all who held it"),
    (16_412, "what had settled was purged under rules that had not made its tags"),
    (
        1_007_641,
        "a mutation of the dead is purged for when their silence has been seen for a lease, and not before",
    ),
    (3_221_840, "an instance that had not heard of a new epoch was taken for level with it"),
    (3_371_275, "one that left was ended with debts that only it knew of: the second hole, by a clean stop"),
    (
        5_236_329,
        "who had not noticed a failover yet was taken for calm; what the dead had told was lost with it",
    ),
    (5_480_664, "who slept through a lease, having just missed an answer, counted the sleep as waited"),
    (7_089_546, "one that started while everything was read for the last time was asked what it keeps"),
];

/// Which seed misses which guard of the mirrored code, and the promise that it then sees broken.
pub const MISSED: &[(Sabotage, u64, &str)] = &[
    (Sabotage::AppendsOnlyOnce, 1092, STALE),
    (Sabotage::WaitsForNobody, 4, STALE),
    (Sabotage::AnswersWhatIsOwedAtOnce, 851, STALE),
    (Sabotage::OwesWithoutMarks, 47, STALE),
    (Sabotage::JoinsWithoutReplay, 59, STALE),
    (Sabotage::IntendsOnlyOnce, 692, FORGOTTEN),
    (Sabotage::LeavesWithItsLease, 781, STALE),
    (Sabotage::IntendsNothing, 1086, FORGOTTEN),
    (Sabotage::ClientsCancelMutations, 8, UNANSWERED),
    (Sabotage::LeavesWithMutationsOpen, 2544, FORGOTTEN),
    (Sabotage::RetriesMutations, 11, FORGOTTEN),
    (Sabotage::UnknownPurgesNothing, 9, STALE),
    (Sabotage::ConflictPurgesNothing, 25, STALE),
    (Sabotage::UnknownNamesNothing, 27, STALE),
    (Sabotage::ValuesWithoutWildcard, 1, STALE),
    (Sabotage::RequestTagsAlone, 2, STALE),
    (Sabotage::ResponseTagsAlone, 1, STALE),
    (Sabotage::StampsLate, 60, FORGOTTEN),
    (Sabotage::FreshensLate, 83, STALE),
    (Sabotage::PurgedByLastModified, 1, STALE),
    (Sabotage::ArrivesEarly, 7, STALE),
    (Sabotage::ReusesWithoutLease, 94, STALE),
    (Sabotage::TrustsRedis, 1, STALE),
    (Sabotage::FollowsAnyFlight, 75, STALE),
    (Sabotage::FollowsWithoutLease, 14831, STALE),
    (Sabotage::SharesUnjudged, 11192, STALE),
    (Sabotage::ServesStaleUnjudged, 20, FORGOTTEN),
    (Sabotage::StoresWhatSettles, 399, STALE),
    (Sabotage::SharesWhatSettles, 11192, STALE),
    (Sabotage::EndsSettlingEarly, 4467, STALE),
    (Sabotage::SettlesInOtherWords, 16412, STALE),
    (Sabotage::LetsGoWhatOthersHold, 8983, STALE),
    (Sabotage::SettlesInSilence, 721, STALE),
    (Sabotage::SharesAmongSubjects, 1, SUBJECT),
    (Sabotage::ForwardsWhatItShouldRefuse, 5664, FORGOTTEN),
    (Sabotage::AnswersTheUnconfirmed, 11, STALE),
    (Sabotage::WaitsForEver, 428, UNANSWERED),
    (Sabotage::FliesTwice, 1, FLIGHTS),
];

/// Guards of the mirrored code that no schedule misses, and why.
pub const RARE: &[(Sabotage, &str)] = &[
    (
        Sabotage::TrustsValidators,
        "takes a purge between a request's look-up and its take-off, in which nothing happens here",
    ),
    (
        Sabotage::StandsInUnjudged,
        "what stands in was live when the request looked it up, and the request had arrived before: the guard makes \
         answers newer than they must be",
    ),
];
